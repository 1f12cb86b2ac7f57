"""The vectors of diagonal blocks, valid and invalid."""

from collections.abc import Callable, Iterator

import numpy as np
from breaking import Case, edited, files_of, put
from draft import Draft, artifact, diagonal_block, gramian, named, source
from stored import Stored, dense, diagonal

VALUES = np.arange(8) / 4


def block(S: Stored) -> Draft:
    """A linear map with a bias, and a vector, of two tasks."""
    return artifact(
        {"layer.weight": [2, 3], "layer.bias": [2], "norm.weight": [8]},
        {
            "layer": diagonal_block("layer.weight", "S", bias="layer.bias"),
            "norm": gramian("norm.weight", "norm"),
        },
        {"S": S, "norm": diagonal(VALUES[::-1], "bfloat16")},
        estimator=named("diagonal"),
        sources=[source("example/one"), source("example/two", 32)],
    )


def whole() -> Draft:
    """As it is estimated."""
    return block(diagonal(VALUES))


def parts() -> Draft:
    """Experts that store the transpose, quantised."""
    codes = np.array([127.0, 64.0, 0.0, 1.0, 2.0, 127.0])
    return artifact(
        {"experts": [2, 2, 3]},
        {
            f"expert.{i}": diagonal_block("experts", f"S.{i}", layout="columns", part=i)
            for i in range(2)
        },
        {f"S.{i}": diagonal((i + 1) * codes, "float16") for i in range(2)},
        estimator=named("diagonal"),
    )


DIAGONAL: dict[str, Callable[[], Draft]] = {
    "diagonal-blocks": whole,
    "diagonal-parts": parts,
}


def diagonal_cases() -> Iterator[Case]:
    """Diagonal blocks that are wrong."""
    two = put("blocks/layer/terms", [{"S": "S"}] * 2)
    rule = "R7.1 there is one term"
    yield edited("schema", "diagonal-two-terms", rule, two, make=whole)
    pair = put("blocks/layer/terms", [{"S": "S", "A": "S"}])
    rule = "R7.1 a term has S alone"
    yield edited("schema", "diagonal-term-with-A", rule, pair, make=whole)
    for name, rule, S in (
        ("dense", "diagonal_block.1 S is diagonal", dense(np.eye(8))),
        ("size", "diagonal_block.2 S has an entry for each of W", diagonal(VALUES[:6])),
    ):
        yield Case(f"diagonal-{name}-S", "manifest", rule, files_of(block(S)))
