"""Factors to be written, and the bytes that they become; or why they may not be."""

from math import inf, nan, nextafter
from typing import Any

from draft import spd
from stored import named
from writing import described, in_json, written

Input = dict[str, Any]
HALF, UPPER = 2.0**-24, 2.0**-133
"""The smallest numbers of float16 and of bfloat16."""
SINGLE_LIMIT = 2.0**128 - 2.0**103
"""The smallest number that rounds to none of binary32."""


def dense(matrix: Any, size: float = 1.0) -> Input:
    """Every entry of a matrix."""
    found = [[size * float(x) for x in row] for row in matrix]
    return {"dim": len(found), "structure": named("dense"), "matrix": found}


def diagonal(values: list[float]) -> Input:
    """A diagonal, told as the field."""
    told = {"values": [*map(float, values)]}
    return {"dim": len(values), "structure": named("diagonal"), "fields": told}


def with_diagonal(values: list[float]) -> Input:
    """The same, told as a matrix."""
    n = range(len(values))
    matrix = [[values[i] if i == j else 0.0 for j in n] for i in n]
    return dense(matrix) | {"structure": named("diagonal")}


def table(values: list[list[float]]) -> Input:
    """S of an eigen or diagonal block: a row for each output."""
    size = len(values) * len(values[0])
    return {"dim": size, "structure": named("diagonal"), "table": values}


def blocks(matrix: Any, runs: list[list[int]], order: list[int] | None = None) -> Input:
    """Blocks along the diagonal, in an order."""
    structure = named("block_diagonal", blocks=runs, permuted=order is not None)
    found = dense(matrix) | {"structure": structure}
    return found if order is None else found | {"permutation": order}


def low_rank(
    vectors: list[list[float]], values: list[float], rest: list[float] | None = None
) -> Input:
    """A sum of outer products."""
    structure = named("low_rank", rank=len(values), diagonal=rest is not None)
    fields = {"vectors": vectors, "values": values}
    fields |= {} if rest is None else {"diagonal": rest}
    return {"dim": len(vectors[0]), "structure": structure, "fields": fields}


def pruned(dim: int, kept: dict[tuple[int, int], float], size: float = 8.0) -> Input:
    """The diagonal and some entries beside it."""
    matrix = [[size + i if i == j else 0.0 for j in range(dim)] for i in range(dim)]
    for (i, j), entry in kept.items():
        matrix[i][j] = matrix[j][i] = entry
    return dense(matrix) | {"structure": named("pruned", kept=len(kept))}


def pair(above: float, below: float | None = None, on: float = 1.0) -> Input:
    """Two rows, whose halves may differ."""
    return dense([[on, above], [above if below is None else below, on]])


TENTHS = dense([[4, 1, 0.5], [1, 3, -0.3], [0.5, -0.3, 2]], 0.1)
TILTED = pair(0.5, 0.50014)
"""``‖x − xᵀ‖ / ‖x‖`` is 1.25e-4."""
LEANING = pair(0.5, 0.50009)
"""It is 0.8e-4."""
TIES = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 125.5]
THIN = 2.0**-125
ORDER = [2, 0, 3, 1]
IN_BLOCKS = [[9.0, 0, 0, 1.5], [0, 7, -0.1, 0], [0, -0.1, 5, 0], [1.5, 0, 0, 8]]
SCATTERED = [[3.0, 0, 0.1, 0], [0, 6, 0, 0], [0.1, 0, 5, 0], [0, 0, 0, 4]]
KEPT = {(0, 2): 0.1, (0, 4): -1.0, (1, 3): 2.5, (2, 4): 0.3, (3, 4): -0.7}
VECTORS = [[0.6, -0.8, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0], [0.8, 0.6, 1e-3, 0.2]]

WRITTEN: dict[str, tuple[str, Input, str]] = {
    "float32": ("float32", TENTHS, "dense.4"),
    "float32-ties": (
        "float32",
        diagonal([1 + 2**-24, 1 + 3 * 2**-24, 2**-150, 3 * 2**-150, -0.0, 0.1]),
        "R9.2.1",
    ),
    "float32-largest": (
        "float32",
        diagonal([nextafter(SINGLE_LIMIT, 0.0), 1.0]),
        "R9.2.1 R9.2.2",
    ),
    "float16-ties": (
        "float16",
        diagonal([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, 0.1]),
        "float16.1",
    ),
    "float16-subnormal": (
        "float16",
        diagonal([HALF / 2, 1.5 * HALF, HALF / 2 + 2**-40, 2.5 * HALF, 1.0]),
        "float16.1",
    ),
    "float16-zeros": ("float16", diagonal([1.0, 0.0, -0.0, -HALF / 4]), "R9.2.1"),
    "float16-by-binary32": ("float16", diagonal([1 + 2**-11 + 2**-40]), "R9.2.1"),
    "float16-largest": (
        "float16",
        diagonal([65504.0, 65519.0, nextafter(65520.0, 0) - 2**-7]),
        "float16.1 float16.2",
    ),
    "float16-loss-allowed": ("float16", diagonal([64.5 * HALF]), "R9.2.5"),
    "bfloat16-ties": (
        "bfloat16",
        diagonal([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 0.1]),
        "bfloat16.1",
    ),
    "bfloat16-subnormal": (
        "bfloat16",
        diagonal([UPPER / 2, 1.5 * UPPER, 99 * UPPER, -0.0, 1.0]),
        "bfloat16.1 R9.2.1",
    ),
    "bfloat16-by-binary32": ("bfloat16", diagonal([1 + 2**-8 + 2**-40]), "R9.2.1"),
    "bfloat16-largest": (
        "bfloat16",
        diagonal([255 * 2.0**120, 255.25 * 2.0**120]),
        "bfloat16.1 bfloat16.2",
    ),
    "dense-unequal-halves": ("float32", LEANING, "R9.2.3 R9.2.4 dense.1"),
    "dense-bfloat16": ("bfloat16", TENTHS, "R9.2.4"),
    "symmetric-order": ("symmetric-float32", TENTHS, "symmetric.1"),
    "symmetric-float16": ("symmetric-float16", TENTHS, "symmetric.3"),
    "symmetric-bfloat16": ("symmetric-bfloat16", TENTHS, "symmetric.3"),
    "symmetric-one-row": ("symmetric-float16", dense([[0.1]]), "symmetric.1"),
    "symmetric-unequal-halves": ("symmetric-float32", LEANING, "symmetric.2"),
    "int8-matrix": ("int8", dense(spd(4, 3), 0.3), "int8.3 int8.5"),
    "int8-one-row": ("int8", dense([[0.1]]), "int8.3"),
    "int8-unequal-halves": ("int8", LEANING, "int8.6"),
    "int8-ties": ("int8", low_rank([TIES], [0.1]), "int8.5"),
    "int8-quotient": ("int8", low_rank([[15.0, 7.5], [47, 23.5]], [1, 1]), "int8.5"),
    "int8-zero-rows": ("int8", low_rank(VECTORS, [4.0, 1.0, 0.1]), "int8.5"),
    "int8-small-rows": (
        "int8",
        low_rank([[THIN, -THIN / 2], [2.0**-121, 2.0**-122]], [1.0, 1.0]),
        "int8.5",
    ),
    "int8-rows-of-64": (
        "int8",
        diagonal([(i * 37 % 61) / 8 + (i // 64) * 100 for i in range(130)]),
        "int8.5",
    ),
    "int8-largest": (
        "int8",
        pair(2.0**121 * (1 + 2**-30), on=2.0**127),
        "int8.4",
    ),
    "int8-weights": (
        "int8",
        low_rank(VECTORS, [4.0, 0.0, 1 + 2**-8], [0.1, 0.0, 1e-30, 2.0]),
        "bfloat16.1",
    ),
    "int8-stack": ("int8", blocks(SCATTERED, [[2, 2]], [0, 2, 1, 3]), "int8.3"),
    "int8-none-kept": ("int8", pruned(3, {}), "int8.3"),
    "int8-kept": ("int8", pruned(5, KEPT), "int8.3"),
    "diagonal": ("float32", with_diagonal([0.1, 2.0, 0.0]), "diagonal.2"),
    "blocks": (
        "float32",
        blocks([[2.0, 1, 0], [1, 3, 0], [0, 0, 0.1]], [[1, 2], [1, 1]]),
        "block_diagonal.4",
    ),
    "blocks-permuted": (
        "symmetric-float16",
        blocks(SCATTERED, [[1, 2], [2, 1]], ORDER),
        "block_diagonal.4 block_diagonal.5",
    ),
    "blocks-of-one-run": (
        "bfloat16",
        blocks(IN_BLOCKS, [[2, 2]], [3, 0, 1, 2]),
        "block_diagonal.4",
    ),
    "pruned": ("float16", pruned(5, KEPT), "pruned.3 pruned.4 pruned.5"),
    "pruned-nothing": ("float32", pruned(1, {}), "pruned.3"),
    "low-rank": ("float32", low_rank(VECTORS, [4.0, 0.0, 0.1]), "low_rank.3"),
    "low-rank-diagonal": (
        "float16",
        low_rank(VECTORS, [4.0, 0.0, 0.1], [0.1, 1.0, 0.0, 65504.0]),
        "low_rank.3",
    ),
    "eigen": ("float32", table([[0.1, 2.0, 3.0], [4.0, 5.0, 0.0]]), "eigen.2"),
}
"""Storage, factor, and the rules that the case is there for."""

REFUSED: dict[str, tuple[str, Input, str]] = {
    "not-a-number": ("float32", dense([[1.0, nan], [nan, 1.0]]), "R9.2.2 not finite"),
    "infinite": ("symmetric-bfloat16", pair(inf), "R9.2.2 not finite"),
    "int8-infinite": ("int8", low_rank([[1.0, -inf]], [1.0]), "R9.2.2 int8.4 infinite"),
    "infinite-weights": ("int8", low_rank([[1.0, 0.5]], [inf]), "R9.2.2 not finite"),
    "float32-too-large": (
        "float32",
        diagonal([SINGLE_LIMIT, 1.0]),
        "R9.2.2 rounds to no number of binary32",
    ),
    "float32-loss": (
        "float32",
        diagonal([2.0**-149 * 62.5, 2.0**-149 * 2.5]),
        "R9.2.5 too much is lost",
    ),
    "float16-too-large": (
        "float16",
        diagonal([65520.0, 1.0]),
        "float16.2 rounds to no number of float16",
    ),
    "float16-vanishing": (
        "symmetric-float16",
        dense([[1e-8, 0.0], [0.0, 1e-8]]),
        "R9.2.5 float16.3 too much is lost",
    ),
    "float16-loss": (
        "float16",
        diagonal([63.5 * HALF]),
        "R9.2.5 float16.3 too much is lost",
    ),
    "bfloat16-too-large": (
        "bfloat16",
        diagonal([255.5 * 2.0**120, 1.0]),
        "bfloat16.2 rounds to no number of bfloat16",
    ),
    "bfloat16-loss": (
        "bfloat16",
        diagonal([62.5 * UPPER]),
        "R9.2.5 too much is lost",
    ),
    "dense-asymmetric": ("float16", TILTED, "R9.2.3 dense.1 asymmetric"),
    "symmetric-asymmetric": (
        "symmetric-float32",
        TILTED,
        "R9.2.3 symmetric.2 asymmetric",
    ),
    "int8-asymmetric": ("int8", TILTED, "R9.2.3 int8.6 asymmetric"),
    "blocks-asymmetric": (
        "float32",
        blocks(
            [
                [1.0, 0.5, 0, 0],
                [0.50009, 1, 0, 0],
                [0, 0, 9e-4, 8e-4],
                [0, 0, 1e-3, 1e-3],
            ],
            [[2, 2]],
        ),
        "R9.2.3 asymmetric",
    ),
    "int8-too-large": (
        "int8",
        dense(
            [[2.0**125, 2.0**121 * (1 + 2**-23)], [2.0**121 * (1 + 2**-23), 2.0**125]]
        ),
        "int8.4 beyond 2^121",
    ),
    "int8-entries-too-large": (
        "int8",
        diagonal([1.0, 2.0**121 * (1 + 2**-23)]),
        "int8.4 beyond 2^121",
    ),
    "low-rank-too-large": (
        "float32",
        low_rank([[1e20, 1.0]], [1.0]),
        "R9.2 an entry of the matrix is beyond float32",
    ),
    "indefinite": ("float32", pair(1 + 2.0**-13), "R14.3 R4.7.3 indefinite"),
    "indefinite-low-rank": (
        "bfloat16",
        low_rank([[1.0, 0.0], [0.0, 1.0]], [1.0, -0.0625], [1.0, 1.0]),
        "R14.3 low_rank.6 indefinite",
    ),
}
"""Storage, factor, and the rules that it breaks, with what is wrong in words."""


def writing_cases() -> dict[str, Any]:
    """Every case, as the index has it."""
    found = {}
    for name, (storage, factor, rules) in WRITTEN.items():
        told = in_json(factor) | {"storage": described(storage)}
        shown = {"shows": rules.split(), "tensors": written(factor, storage)}
        found[name] = told | shown
    for name, (storage, factor, rule) in REFUSED.items():
        words = rule.split()
        cites = [word for word in words if "." in word]
        told = in_json(factor) | {"storage": described(storage), "cites": cites}
        found[name] = told | {"reason": " ".join(words[len(cites) :])}
    return found
