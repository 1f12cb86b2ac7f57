"""The invalid vectors that only the numbers of a factor show."""

from collections.abc import Iterator

import numpy as np
from breaking import Case, files_of, whole
from draft import Draft
from stored import dense


def valued(name: str, rule: str, factor: str, values: np.ndarray) -> Case:
    """Store values that no factor may have."""
    draft = whole()
    draft.factors[factor] = dense(values)
    draft.manifest["factors"][factor] = draft.factors[factor].to_json()
    sealed = Draft(draft.manifest, draft.factors, draft.shards).seal()
    return Case(name, "values", rule, files_of(sealed))


def leaning(name: str, rule: str, storage: str, ratio: float) -> Case:
    """Store an eigenvalue that is a little too negative."""
    draft = whole()
    draft.factors["norm"] = dense(np.diag([1.0, ratio]).astype("f4"), storage)
    draft.manifest["factors"]["norm"] = draft.factors["norm"].to_json()
    sealed = Draft(draft.manifest, draft.factors, draft.shards).seal()
    return Case(name, "verify", rule, files_of(sealed))


def value_cases() -> Iterator[Case]:
    """All artifacts whose numbers are no curvature."""
    rule = "R9.2 every value is finite"
    yield valued("value-infinite", rule, "norm", np.array([[1.0, 0.0], [0.0, np.inf]]))
    yield valued("value-nan", rule, "out", np.array([[np.nan, 0.0], [0.0, 1.0]]))
    rule = (
        "R4.7.3 a factor is semi-definite up to rounding, of which float32 has little"
    )
    yield leaning("leaning-too-far-float32", rule, "float32", -1.1e-5)
    rule = "R4.7.3 a factor is semi-definite up to the rounding of its storage"
    yield leaning("leaning-too-far-bfloat16", rule, "bfloat16", -0.01025390625)
    rule = "R9.3 a factor is symmetric"
    yield valued("asymmetric", rule, "norm", np.array([[1.0, 0.5], [0.25, 1.0]]))
    rule += ", where the squares of its entries are beyond float32"
    large = np.array([[1.0, -(2.0**65)], [0.0, 1.0]])
    yield valued("asymmetric-huge", rule, "norm", large)
