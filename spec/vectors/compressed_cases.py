"""The valid vectors of compressed factors: every structure in all its storages."""

from collections.abc import Callable
from functools import partial

import numpy as np
from draft import Draft, artifact, gramian, kronecker, spd
from stored import (
    Codes,
    Stored,
    block_diagonal,
    dense,
    diagonal,
    low_rank,
    pruned,
    quantised,
)

PLAIN = ["float32", "float16", "bfloat16"]
SYMMETRIC = [f"symmetric-{dtype}" for dtype in PLAIN]
LAST_UNUSED = 2.0
"""The scale of the last row of a matrix, which has no codes: any number will do."""


def three(A: Stored, B: Stored, G: Stored) -> Draft:
    """One layer without a bias, and one vector."""
    d_in, d_out = len(A.matrix), len(B.matrix)
    return artifact(
        {"layer.weight": [d_out, d_in], "norm.weight": [len(G.matrix)]},
        {
            "layer": kronecker("layer.weight", ("layer/A", "layer/B")),
            "norm": gramian("norm.weight", "norm/G"),
        },
        {"layer/A": A, "layer/B": B, "norm/G": G},
    )


def stack(count: int, size: int, seed: int) -> np.ndarray:
    """Make positive definite blocks of small whole numbers."""
    return np.stack([spd(size, seed + i) for i in range(count)])


def blocks(storage: str) -> Draft:
    """Uneven blocks with a permutation, one stack, and several runs."""
    return three(
        block_diagonal(
            [stack(2, 2, 1), stack(1, 3, 2)], storage, [3, 0, 6, 1, 5, 2, 4]
        ),
        block_diagonal([stack(2, 2, 4)], storage),
        block_diagonal([stack(1, 3, 5), stack(1, 4, 6), stack(2, 1, 7)], storage),
    )


VECTORS = np.array([[1.0, 0.5, -2.0, 1.5, 0.0], [0.25, -1.0, 0.0, 3.0, 2.0]])


def ranks(storage: str) -> Draft:
    """Rank 2 with a diagonal, rank 1 without one, and the full rank."""
    return three(
        low_rank(VECTORS, [2.0, 0.5], storage, [0.25, 0.0, 1.0, 3.0, 0.5]),
        low_rank(VECTORS[:1, :3], [1.5], storage),
        low_rank(np.eye(4)[::-1] + np.eye(4), [4.0, 2.0, 1.0, 0.0], storage),
    )


def ranks_int8() -> Draft:
    """The same; one term at most is not a whole number in each entry of the sum."""
    codes = np.array([[100, -37, 127, 0, 0], [0, 0, 0, -127, 64], [0, 0, 127, 127, 0]])
    return three(
        low_rank(
            Codes(codes, np.array([2.0, 0.5, 1.0])),
            [2.0, 0.5, 1.0],
            "int8",
            [0.0, 0.0, 0.25, 3.0, 0.0],
        ),
        low_rank(quantised(VECTORS[1:, :3]), [2.0], "int8"),
        low_rank(np.eye(4), [4.0, 2.0, 1.0, 0.0], "int8"),
    )


def kept(storage: str) -> Draft:
    """Most entries of 78, in a mask that ends inside a byte; none of 3; all of 15."""
    chosen = [k for k in range(78) if k % 11 != 4]
    values = np.array([(5 * k) % 9 - 4.0 for k in range(len(chosen))]) / 4
    return three(
        pruned(chosen, values, np.arange(16.0, 29.0), storage),
        pruned([], np.zeros(0), np.array([0.5, 2.0, 0.0]), storage),
        pruned(range(15), np.arange(-7.0, 8.0) / 4, np.full(6, 8.0), storage),
    )


def dense_int8() -> Draft:
    """Codes of whole matrices: from -127 to 127, with a row of zeros, and of dim 1."""
    codes = np.array([127, -127, 1, 0, 63, -2])
    scales = np.array([0.5, 0.25, 3.0, LAST_UNUSED])
    edges = Codes(codes, scales, np.array([1.0, 1.5, 4.0, 3.0]))
    zeros = spd(5, 2)
    zeros[1] = zeros[:, 1] = 0
    return three(dense(edges, "int8"), dense(zeros, "int8"), dense(spd(1, 1), "int8"))


def diagonal_int8() -> Draft:
    """A table of 66 rows: 64 with one scale, 2 with another; and two short ones."""
    shares = [(7 * i % 31) / 64 for i in range(64)] + [i / 1024 for i in (1, 5)]
    return artifact(
        {"table.weight": [66, 1], "gate": [3]},
        {
            "table": kronecker("table.weight", ("rows", "out"), layout="columns"),
            "gate": gramian("gate", "gate"),
        },
        {
            "rows": diagonal(shares, "int8"),
            "out": diagonal([4.0], "int8"),
            "gate": diagonal([0.0, 0.0, 0.0], "int8"),
        },
    )


def tiny() -> Draft:
    """Factors of one row, in every structure: tensors without entries."""
    one, none = np.ones((1, 1, 1)), np.zeros(0)
    factors = {
        "blocks": block_diagonal([one], "int8", [0]),
        "symmetric": block_diagonal([one], "symmetric-float16"),
        "rank": low_rank(np.full((1, 1), 0.5), [2.0], "int8", [1.0]),
        "pruned": pruned([], none, np.array([3.0]), "int8"),
        "plain": pruned([], none, np.array([2.0]), "float16"),
    }
    return artifact(
        {f"{name}.scale": [] for name in factors},
        {name: gramian(f"{name}.scale", name) for name in factors},
        factors,
    )


def extreme_int8() -> Draft:
    """Codes for which both products are rounded; very small and large scales."""
    matrix = Codes(
        np.array([127, -3, 2, 5, 33, -127]),
        np.array([0.1, 2.0**-130, 1 / 3, 0.0], "f4"),
        np.array([1.0, 1.0, 1.0, 1.0]),
    )
    entries = Codes(np.array([77, -101, 11]), np.array([0.1], "f4"))
    large = Codes(np.array([127, 126, 1, 0]), np.array([2.0**120]))
    return three(
        dense(matrix, "int8"),
        pruned(range(3), entries, np.array([1.0, 1.0, 1.0]), "int8"),
        diagonal(large, "int8"),
    )


def mixed() -> Draft:
    """Blocks whose A and B have different structures and storages, with losses."""
    rank = low_rank(VECTORS, [2.0, 0.5], "bfloat16", [0.25, 0.0, 1.0, 3.0, 0.5])
    rank.loss = {"error": 0.125, "min_eigenvalue": 0, "lift": 0.0}
    few = pruned([0, 2], np.array([1.0, -0.5]), np.array([2.0, 2.0, 1.0]))
    few.loss = {"error": 0, "min_eigenvalue": -0.03125, "lift": 1.5e-05}
    halves = block_diagonal([stack(2, 2, 1)], "int8", [0, 2, 1, 3])
    halves.loss = {"error": 1.5, "min_eigenvalue": -1, "lift": 3}
    return three(rank, few, halves)


def fitness() -> Draft:
    """Losses that say for what factors are fit: all of it, a part, and nothing."""
    draft = mixed()
    first, second, _ = draft.manifest["factors"].values()
    first["loss"] |= {"inverse_error": 2.5, "null_overlap": 1, "diagonal_error": 0}
    second["loss"] |= {"null_overlap": 0.0}
    return draft


def shared() -> Draft:
    """Two layers that read the same input: one compressed A for both."""
    return artifact(
        {"q.weight": [2, 7], "k.weight": [2, 7]},
        {
            "q": kronecker("q.weight", ("input", "q/output")),
            "k": kronecker("k.weight", ("input", "k/output")),
        },
        {
            "input": block_diagonal([stack(1, 4, 1), stack(1, 3, 2)], "int8"),
            "q/output": dense(spd(2, 1)),
            "k/output": pruned([0], np.ones(1), np.array([2.0, 1.0]), "int8"),
        },
    )


def indefinite_terms() -> Draft:
    """A sum of two terms, the second of which is negative."""
    return artifact(
        {"layer.weight": [3, 5]},
        {"layer": kronecker("layer.weight", ("a1", "b1"), ("a2", "b2"))},
        {
            "a1": dense(spd(5, 1)),
            "b1": dense(spd(3, 2)),
            "a2": low_rank(VECTORS, [0.5, -0.25], "float16"),
            "b2": low_rank(np.eye(3)[:1], [0.125], "int8", [0.0, -0.25, -0.125]),
        },
    )


def sharded() -> Draft:
    """The tensors of one factor in two files, one of them without entries."""
    draft = mixed()
    first = ["layer/A", "norm/G/blocks_0", "layer/B/mask"]
    others = [
        f"{factor}/{field}"
        for factor, stored in draft.factors.items()
        for field in stored.tensors
        if factor not in first and f"{factor}/{field}" not in first
    ]
    return artifact(
        {},
        draft.manifest["blocks"],
        draft.factors,
        shards=[first, others],
        base_model=draft.manifest["base_model"],
    )


COMPRESSED: dict[str, Callable[[], Draft]] = {
    "dense-int8": dense_int8,
    "diagonal-int8": diagonal_int8,
    **{f"block-diagonal-{s}": partial(blocks, s) for s in [*PLAIN, *SYMMETRIC, "int8"]},
    **{f"low-rank-{dtype}": partial(ranks, dtype) for dtype in PLAIN},
    "low-rank-int8": ranks_int8,
    **{f"pruned-{storage}": partial(kept, storage) for storage in [*PLAIN, "int8"]},
    "compressed-tiny": tiny,
    "extreme-int8": extreme_int8,
    "compressed-mixed": mixed,
    "compressed-fitness": fitness,
    "compressed-shared": shared,
    "compressed-terms": indefinite_terms,
    "compressed-sharded": sharded,
}
