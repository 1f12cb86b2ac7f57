"""The invalid vectors of compressed factors that the manifest alone shows."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from breaking import Case, Edit, drop, edited, files_of, put
from draft import Draft, artifact, gramian
from stored import Stored, block_diagonal, dense, low_rank, pruned

LOSS = {"error": 0.5, "min_eigenvalue": 0, "lift": 0}
HUGE = 2**31 - 1


def factors() -> dict[str, Stored]:
    """The valid factors that these are made from."""
    blocks = [np.full((1, 2, 2), 2.0) + np.eye(2), np.full((2, 1, 1), 3.0)]
    return {
        "blocks": block_diagonal(blocks, "int8", [2, 0, 3, 1]),
        "pruned": pruned([1, 3, 5, 8], np.ones(4), np.full(5, 4.0)),
        "plain": block_diagonal([np.full((1, 2, 2), 2.0) + np.eye(2)]),
        "rank": low_rank(np.eye(3)[:2] * 0.5, [2.0, 1.0], "float16", [1.0, 2.0, 0.5]),
        "single": low_rank(np.eye(3)[:1], [2.0], "float32", [1.0, 2.0, 0.5]),
        "dense": dense(np.full((3, 3), 2.0) + np.eye(3), "int8"),
        "entries": pruned([0, 2], np.ones(2), np.full(3, 4.0), "int8"),
    }


def compressed(name: str) -> Draft:
    """A valid artifact of one of these factors."""
    factor = factors()[name]
    shape = [len(factor.matrix)]
    return artifact({"scale": shape}, {"scale": gramian("scale", "G")}, {"G": factor})


def of_factor(name: str, rule: str, factor: Stored) -> Case:
    """An artifact of one factor that only its manifest shows to be wrong."""
    shape = [len(factor.matrix)]
    draft = artifact({"scale": shape}, {"scale": gramian("scale", "G")}, {"G": factor})
    return Case(name, "manifest", rule, files_of(draft))


def configured(**fields: Any) -> Edit:
    """Set fields of the structure's configuration."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["factors"]["G"]["structure"]["configuration"].update(fields)

    return edit


SYMMETRIC = put(
    "factors/G/storage", {"name": "symmetric", "configuration": {"dtype": "float32"}}
)
SCHEMA: dict[str, list[tuple[str, str, Edit]]] = {
    "blocks": [
        (
            "blocks-none",
            "block_diagonal.1 there is a run of blocks",
            configured(blocks=[]),
        ),
        (
            "blocks-count-zero",
            "block_diagonal.1 a run has a block",
            configured(blocks=[[1, 4], [0, 2]]),
        ),
        (
            "blocks-size-zero",
            "block_diagonal.1 a block has a row",
            configured(blocks=[[1, 4], [1, 0]]),
        ),
        (
            "blocks-huge-count",
            "block_diagonal.1 a count is below 2**31",
            configured(blocks=[[2**31, 1]]),
        ),
        (
            "blocks-of-one-number",
            "block_diagonal.1 a run is a pair",
            configured(blocks=[[4]]),
        ),
        (
            "blocks-of-three-numbers",
            "block_diagonal.1 a run is a pair",
            configured(blocks=[[1, 2, 2]]),
        ),
        ("blocks-flat", "block_diagonal.1 blocks are runs", configured(blocks=[2, 2])),
        (
            "blocks-true",
            "R6.8 true is not a number",
            configured(blocks=[[True, 2], [2, 1]]),
        ),
        (
            "permuted-number",
            "block_diagonal.1 permuted is true or false",
            configured(permuted=1),
        ),
        (
            "blocks-unknown-field",
            "R7.6.2 a configuration has no other field",
            configured(size=2),
        ),
        (
            "blocks-without-permuted",
            "R7.6.2 every field of a configuration is there",
            drop("factors/G/structure/configuration/permuted"),
        ),
    ],
    "rank": [
        ("rank-zero", "low_rank.1 the rank is at least 1", configured(rank=0)),
        ("rank-huge", "low_rank.1 the rank is below 2**31", configured(rank=2**31)),
        ("rank-null", "low_rank.1 the rank is a number", configured(rank=None)),
        (
            "rank-diagonal-null",
            "low_rank.1 diagonal is true or false",
            configured(diagonal=None),
        ),
        ("rank-unknown-field", "R7.6.2 there is no other field", configured(centre=0)),
        ("symmetric-low-rank", "R7.6.1 a low rank has no matrix to pack", SYMMETRIC),
        (
            "loss-missing-field",
            "R7.1 a loss has three numbers",
            put("factors/G/loss", {"error": 0.5, "lift": 0}),
        ),
        (
            "loss-extra-field",
            "R12.5 a loss has three numbers only",
            put("factors/G/loss", LOSS | {"method": "svd"}),
        ),
        (
            "loss-ignored-field",
            "R12.5 a loss has three numbers only",
            put("factors/G/loss", LOSS | {"x-extra": {"must_understand": False}}),
        ),
        (
            "loss-negative-error",
            "R7.1 an error is not negative",
            put("factors/G/loss", LOSS | {"error": -1e-9}),
        ),
        (
            "loss-negative-lift",
            "R7.1 a lift is not negative",
            put("factors/G/loss", LOSS | {"lift": -1}),
        ),
        (
            "loss-text",
            "R7.1 an eigenvalue is a number",
            put("factors/G/loss", LOSS | {"min_eigenvalue": "0"}),
        ),
        (
            "loss-inverse-error-negative",
            "R7.6.3 an error of the inverse is not negative",
            put("factors/G/loss", LOSS | {"inverse_error": -1e-9}),
        ),
        (
            "loss-inverse-error-null",
            "R7.6.3 what is not known is absent",
            put("factors/G/loss", LOSS | {"inverse_error": None}),
        ),
        (
            "loss-overlap-above-one",
            "R7.6.3 an overlap is not above 1",
            put("factors/G/loss", LOSS | {"null_overlap": 1.0000001}),
        ),
        (
            "loss-overlap-negative",
            "R7.6.3 an overlap is not negative",
            put("factors/G/loss", LOSS | {"null_overlap": -0.5}),
        ),
        (
            "loss-diagonal-error-text",
            "R7.6.3 an error of the diagonal is a number",
            put("factors/G/loss", LOSS | {"diagonal_error": "0"}),
        ),
        (
            "loss-null",
            "R7.1 a loss is an object or absent",
            put("factors/G/loss", None),
        ),
    ],
    "pruned": [
        ("kept-negative", "pruned.1 kept is not negative", configured(kept=-1)),
        ("kept-huge", "pruned.1 kept is below 2**53", configured(kept=2**53)),
        ("kept-text", "pruned.1 kept is a number", configured(kept="4")),
        (
            "kept-missing",
            "R7.6.2 the configuration has kept",
            put("factors/G/structure/configuration", {}),
        ),
        ("symmetric-pruned", "R7.6.1 a pruned factor has none", SYMMETRIC),
    ],
    "dense": [
        (
            "int8-with-configuration",
            "R7.6.2 int8 has no configuration",
            put("factors/G/storage/configuration", {"block": 64}),
        ),
        (
            "symmetric-int8",
            "R7.6.2 the dtype of symmetric is a plain one",
            put(
                "factors/G/storage",
                {"name": "symmetric", "configuration": {"dtype": "int8"}},
            ),
        ),
    ],
}

WRAPPING = [[2**30, 2 ** (30 - i % 2)] for i in range(21)]
"""Blocks of 2**64 rows in all."""
MANIFEST: dict[str, list[tuple[str, str, Edit]]] = {
    "blocks": [
        (
            "blocks-too-few",
            "block_diagonal.3 the blocks have dim rows together",
            configured(blocks=[[1, 3]]),
        ),
        (
            "blocks-too-many",
            "block_diagonal.3 the blocks have dim rows together",
            configured(blocks=[[2, 2], [1, 1]]),
        ),
        (
            "blocks-huge",
            "block_diagonal.3 the blocks have dim rows together",
            configured(blocks=[[HUGE, HUGE]]),
        ),
        (
            "blocks-wrap-around",
            "block_diagonal.3 the sum of the blocks is exact beyond 64 bits",
            configured(blocks=[*WRAPPING, [1, 4]]),
        ),
        (
            "blocks-fraction",
            "R6.8 a whole number has no fraction",
            configured(blocks=[[1, 2.0], [2, 1]]),
        ),
    ],
    "rank": [
        (
            "rank-far-above-dim",
            "low_rank.2 the rank is dim at most",
            configured(rank=HUGE),
        ),
        ("rank-fraction", "R6.8 a whole number has no fraction", configured(rank=2.0)),
        (
            "compressed-dim-mismatch",
            "R7.5.4 a compressed factor has the size of its block",
            put("factors/G/dim", 4),
        ),
    ],
    "pruned": [
        (
            "kept-above-triangle",
            "pruned.2 kept is dim (dim - 1) / 2 at most",
            configured(kept=11),
        ),
        (
            "kept-far-above-triangle",
            "pruned.2 kept is dim (dim - 1) / 2 at most",
            configured(kept=2**53 - 1),
        ),
        ("kept-fraction", "R6.8 a whole number has no fraction", configured(kept=4.0)),
    ],
}


def compressed_manifest_cases() -> Iterator[Case]:
    """All artifacts of compressed factors whose manifest is wrong."""
    for level, table in (("schema", SCHEMA), ("manifest", MANIFEST)):
        for factor, cases in table.items():
            for name, rule, edit in cases:
                yield edited(level, name, rule, edit, make=partial(compressed, factor))
    rule = "block_diagonal.2 neighbouring runs differ in size"
    runs = [np.full((1, 2, 2), 2.0) + np.eye(2), *[np.full((1, 1, 1), 3.0)] * 2]
    yield of_factor("blocks-equal-runs", rule, block_diagonal(runs))
    rule = "low_rank.2 the rank is dim at most"
    rows = np.array([[1.0], [0.5]])
    yield of_factor("rank-above-dim", rule, low_rank(rows, [1.0, 2.0]))
    ignore = configured(**{"x-extra": {"must_understand": False}})
    for factor in ("blocks", "rank", "pruned"):
        name = f"must-understand-in-configuration-of-{factor}"
        rule = "R12.5 decoding has no optional fields"
        yield edited("schema", name, rule, ignore, make=partial(compressed, factor))
