"""The vectors of eigen blocks, valid and invalid."""

from collections.abc import Callable, Iterator

import numpy as np
from breaking import Case, Edit, edited, put
from draft import Draft, artifact, eigen, gramian, named
from stored import Stored, dense, diagonal, low_rank

SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
VECTORS = SIGNS / 2.0
"""Orthonormal, exactly."""
CORRECTED = (np.arange(16) * 5 % 11 + 1.0) / 4
"""Eigenvalues that are no products."""


def block(A: Stored, B: Stored, S: Stored) -> Draft:
    """A linear layer with a bias in the eigenbases of its factors, and a vector."""
    return artifact(
        {"layer.weight": [4, 3], "layer.bias": [4], "norm.weight": [4]},
        {
            "layer": eigen("layer.weight", "in", "out", "S", bias="layer.bias"),
            "norm": gramian("norm.weight", "norm"),
        },
        {"in": A, "out": B, "S": S, "norm": dense(np.eye(4))},
        estimator=named("ekfac"),
    )


def complete() -> Draft:
    """All vectors."""
    return block(
        low_rank(VECTORS, [8.0, 4.0, 2.0, 0.0]),
        low_rank(VECTORS[::-1], [4.0, 4.0, 1.0, 0.5]),
        diagonal(CORRECTED),
    )


def few() -> Draft:
    """Two vectors of A with a diagonal, three of B, which are as long as they like."""
    return block(
        low_rank(VECTORS[:2], [8.0, 4.0], "bfloat16", [0.5, 0.25, 1.0, 2.0]),
        low_rank(2 * VECTORS[1:], [4.0, 2.0, 1.0], "float16"),
        diagonal(CORRECTED[:6], "float16"),
    )


def parts() -> Draft:
    """Two experts that are stacked; both A and B have a diagonal."""
    A = low_rank(VECTORS[:1, :3], [8.0], "float32", [0.5, 0.25, 1.0])
    blocks = {
        f"expert.{i}": eigen("experts", "in", f"out.{i}", f"S.{i}", part=i)
        for i in range(2)
    }
    factors = {"in": A}
    for i in range(2):
        factors[f"out.{i}"] = low_rank(
            SIGNS[: i + 1, :2].astype(float), [2.0, 1.0][: i + 1], "float32", [1.0, 2.0]
        )
        factors[f"S.{i}"] = diagonal(CORRECTED[: i + 1])
    return artifact({"experts": [2, 2, 3]}, blocks, factors, estimator=named("ekfac"))


EIGEN: dict[str, Callable[[], Draft]] = {
    "eigen": complete,
    "eigen-few": few,
    "eigen-parts": parts,
}


def _term(**roles: str) -> Edit:
    return put("blocks/layer/terms", [{"A": "in", "B": "out", "S": "S"} | roles])


def eigen_cases() -> Iterator[Case]:
    """Eigen blocks that are wrong."""
    two = [{"A": "in", "B": "out", "S": "S"}] * 2
    pair = [{"A": "in", "B": "out"}]
    for level, name, rule, edit in (
        (
            "schema",
            "two-terms",
            "R7.1 there is one term",
            put("blocks/layer/terms", two),
        ),
        ("schema", "without-S", "R7.1 a term has S", put("blocks/layer/terms", pair)),
        ("manifest", "dense-A", "eigen.1 A is low_rank", _term(A="norm")),
        ("manifest", "dense-S", "eigen.1 S is diagonal", _term(S="norm")),
        ("manifest", "no-S", "R7.5.6 a factor of a block exists", _term(S="T")),
    ):
        yield edited(level, f"eigen-{name}", rule, edit, make=complete)
    rule = "eigen.2 S has a value for each vector of B with each of A"
    yield Case(
        "eigen-size-of-S", "manifest", rule, _files(diagonal(CORRECTED[:12]), VECTORS)
    )
    wide = np.hstack([VECTORS, VECTORS[:, :1]])
    rule = "eigen.3 A has the size of the inputs"
    yield Case("eigen-size-of-A", "manifest", rule, _files(diagonal(CORRECTED), wide))


def _files(S: Stored, vectors: np.ndarray) -> dict[str, bytes]:
    draft = block(
        low_rank(vectors, [8.0, 4.0, 2.0, 0.0]),
        low_rank(VECTORS[::-1], [4.0, 4.0, 1.0, 0.5]),
        S,
    )
    return {"kfac.json": draft.text} | draft.files
