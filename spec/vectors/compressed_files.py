"""The invalid vectors of compressed factors whose tensors are wrong."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from breaking import Case, files_of
from compressed_breaks import HUGE, compressed
from draft import SINGLE, split, with_header
from stored import Tensor, tensor

Tensors = dict[str, Tensor | None]


def retold(level: str, name: str, rule: str, tensors: Tensors) -> Case:
    """Replace tensors, add some, or drop them (None); all else fits them."""
    (factor,) = {key.partition("/")[0] for key in tensors}
    draft = compressed(factor)
    fields = draft.factors["G"].tensors
    for key, replaced in tensors.items():
        field = key.partition("/")[2]
        fields.pop(field, None)
        if replaced is not None:
            fields[field] = replaced
    return Case(name, level, rule, files_of(draft.seal()))


def announced(name: str, rule: str, factor: str, dim: int, **tensors: Any) -> Case:
    """Announce tensors that no file can hold."""
    draft = compressed(factor)
    described = draft.manifest["factors"]["G"]
    described["dim"] = dim
    described["structure"]["configuration"] = tensors.pop("configuration")
    draft.manifest["base_model"]["parameters"]["scale"]["shape"] = [dim]
    header, content = split(draft.files[SINGLE])
    for field, (dtype, size, shape) in tensors.items():
        start = header[f"G/{field}"]["data_offsets"][0]
        end = start + size * int(np.prod(shape, dtype=object))
        told = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        header[f"G/{field}"] = told
    draft.files[SINGLE] = with_header(header, content)
    return Case(name, "files", rule, files_of(draft.relist()))


FILES: list[tuple[str, str, Tensors]] = [
    ("scales-missing", "int8.3 codes have their scales", {"dense/matrix.scales": None}),
    (
        "diagonal-missing",
        "int8.3 the codes of a matrix have its diagonal",
        {"blocks/blocks_0.diagonal": None},
    ),
    (
        "codes-missing",
        "R8.9 a tensor without entries is there as well",
        {"blocks/blocks_1": None},
    ),
    (
        "codes-of-whole-matrix",
        "int8.3 the codes of a matrix are those above its diagonal",
        {"dense/matrix": tensor(np.zeros((3, 3)), "int8")},
    ),
    (
        "codes-with-diagonal",
        "int8.3 the diagonal has no codes",
        {"dense/matrix": tensor(np.zeros(6), "int8")},
    ),
    (
        "codes-of-another-type",
        "int8.3 codes have a sign",
        {"dense/matrix": tensor(np.zeros(3), "uint8")},
    ),
    (
        "scales-of-another-type",
        "int8.3 scales are float32",
        {"dense/matrix.scales": tensor(np.ones(3), "float16")},
    ),
    (
        "scales-of-another-size",
        "int8.3 a matrix has a scale for each row",
        {"dense/matrix.scales": tensor(np.ones(2), "float32")},
    ),
    (
        "scales-for-every-entry",
        "int8.3 64 entries share a scale",
        {"entries/values.scales": tensor(np.ones(2), "float32")},
    ),
    (
        "scales-of-weights",
        "int8.3 weights are not quantised",
        {"entries/diagonal.scales": tensor(np.ones(1), "float32")},
    ),
    (
        "weights-as-float32",
        "int8.3 weights beside codes are bfloat16",
        {"entries/diagonal": tensor(np.full(3, 4.0), "float32")},
    ),
    (
        "blocks-scales-as-row",
        "block_diagonal.4 a run is a stack, also of one block",
        {"blocks/blocks_0.scales": tensor(np.ones(2), "float32")},
    ),
    (
        "blocks-as-matrix",
        "block_diagonal.4 a run is a stack, also of one block",
        {"plain/blocks_0": tensor(np.eye(2), "float32")},
    ),
    (
        "blocks-of-another-number",
        "block_diagonal.4 runs are numbered from 0",
        {"blocks/blocks_1": None, "blocks/blocks_2": tensor(np.zeros((2, 0)), "int8")},
    ),
    (
        "permutation-missing",
        "block_diagonal.4 permuted blocks have it",
        {"blocks/permutation": None},
    ),
    (
        "permutation-as-int64",
        "R8.8 a permutation is I32",
        {"blocks/permutation": tensor([2, 0, 3, 1], "int64")},
    ),
    (
        "permutation-too-short",
        "block_diagonal.4 a permutation has dim numbers",
        {"blocks/permutation": tensor([2, 0, 1], "int32")},
    ),
    (
        "mask-too-long",
        "pruned.3 a mask has a bit for each entry above the diagonal",
        {"pruned/mask": tensor([42, 1, 0], "uint8")},
    ),
    ("mask-as-int8", "R8.8 a mask is U8", {"pruned/mask": tensor([42, 1], "int8")}),
    (
        "kept-of-another-size",
        "pruned.3 there are as many values as are kept",
        {"pruned/values": tensor(np.ones(5), "float32")},
    ),
    (
        "vectors-turned",
        "low_rank.3 vectors are rows",
        {"rank/vectors": tensor(np.eye(3)[:, :2], "float16")},
    ),
    (
        "rank-without-diagonal",
        "low_rank.3 diagonal is there if told",
        {"rank/diagonal": None},
    ),
    (
        "rank-as-float32",
        "R8.8 the storage holds for every field",
        {"rank/values": tensor([2.0, 1.0], "float32")},
    ),
    (
        "field-extra",
        "dense.4 a factor has no other field",
        {"dense/diagonal": tensor(np.ones(3), "float32")},
    ),
]


def permuted(numbers: list[int]) -> Tensors:
    """Replace the permutation."""
    return {"blocks/permutation": tensor(numbers, "int32")}


def masked(*entries: int) -> Tensors:
    """Replace the mask."""
    bits = np.zeros(16, bool)
    bits[list(entries)] = True
    return {"pruned/mask": tensor(np.packbits(bits, bitorder="little"), "uint8")}


def scaled(factor: str, *scales: float) -> Tensors:
    """Replace scales."""
    return {f"{factor}.scales": tensor(np.array(scales), "float32")}


VALUES: list[tuple[str, str, Tensors]] = [
    (
        "permutation-twice",
        "block_diagonal.5 a permutation has a number once",
        permuted([2, 0, 2, 1]),
    ),
    (
        "permutation-beyond",
        "block_diagonal.5 its numbers are below dim",
        permuted([2, 0, 4, 1]),
    ),
    (
        "permutation-negative",
        "block_diagonal.5 its numbers are not negative",
        permuted([2, 0, -1, 1]),
    ),
    (
        "permutation-far-beyond",
        "block_diagonal.5 its numbers are below dim",
        permuted([2, 0, HUGE, 1]),
    ),
    ("mask-too-few-bits", "pruned.4 as many bits as are kept", masked(1, 3, 5)),
    ("mask-too-many-bits", "pruned.4 as many bits as are kept", masked(1, 3, 5, 7, 8)),
    ("mask-unused-bit", "pruned.5 an unused bit is 0", masked(1, 3, 5, 8, 10)),
    (
        "mask-unused-bit-counted",
        "pruned.5 an unused bit is no entry",
        masked(1, 3, 5, 15),
    ),
    ("scale-nan", "int8.2 a scale is finite", scaled("dense/matrix", 2.0, np.nan, 0.0)),
    ("scale-infinite", "int8.2 a scale is finite", scaled("entries/values", np.inf)),
    (
        "scale-negative",
        "int8.2 a scale is not negative",
        {"blocks/blocks_0.scales": tensor([[-2.0, 0.0]], "float32")},
    ),
    (
        "scale-of-no-codes",
        "int8.2 so is the scale of the last row, which is not used",
        scaled("dense/matrix", 2.0, 2.0, -1.0),
    ),
    (
        "code-minus-128",
        "int8.1 a code is -127 at least",
        {"dense/matrix": tensor([127, -128, 127], "int8")},
    ),
    (
        "code-minus-128-of-entries",
        "int8.1 a code is -127 at least",
        {"entries/values": tensor([-128, 127], "int8")},
    ),
    (
        "rank-nan",
        "R9.2 every value is finite",
        {"rank/values": tensor([2, np.nan], "float16")},
    ),
    (
        "pruned-infinite",
        "R9.2 every value is finite",
        {"pruned/diagonal": tensor([4, 4, np.inf, 4, 4], "float32")},
    ),
    (
        "blocks-asymmetric",
        "R9.3 a factor is symmetric",
        {"plain/blocks_0": tensor([[[3.0, 2.0], [1.0, 3.0]]], "float32")},
    ),
    (
        "int8-diagonal-nan",
        "R9.2 every value is finite",
        {"dense/matrix.diagonal": tensor([3.0, np.nan, 3.0], "float32")},
    ),
    (
        "rank-overflow",
        "R9.2 every entry is finite",
        {
            "single/vectors": tensor([[2.0**83, 0.0, 0.0]], "float32"),
            "single/values": tensor([1.0], "float32"),
        },
    ),
    ("int8-overflow", "R9.2 every entry is finite", scaled("entries/values", 2.0**127)),
]
VERIFY: list[tuple[str, str, Tensors]] = [
    (
        "rank-negative-value",
        "low_rank.6 a value is not negative",
        {"rank/values": tensor([2.0, -16.0], "float16")},
    ),
    (
        "rank-negative-diagonal",
        "low_rank.6 a diagonal is not negative, whatever the values make good",
        {"rank/diagonal": tensor([-0.25, 2.0, 0.5], "float16")},
    ),
    (
        "rank-slightly-negative",
        "low_rank.6 a value is not negative beyond rounding",
        {"single/values": tensor([-(2.0**-15)], "float32")},
    ),
    (
        "pruned-indefinite",
        "R4.7.3 a factor is positive semi-definite",
        {"pruned/values": tensor([8.0, 1.0, 1.0, 1.0], "float32")},
    ),
    (
        "int8-indefinite",
        "R4.7.3 a factor is positive semi-definite",
        {"blocks/blocks_0.diagonal": tensor([[1.0, 1.0]], "float32")},
    ),
]


def compressed_file_cases() -> Iterator[Case]:
    """All artifacts of compressed factors whose tensors are wrong."""
    for level, cases in (("files", FILES), ("values", VALUES), ("verify", VERIFY)):
        for name, rule, tensors in cases:
            yield retold(level, name, rule, tensors)
    rule = "R8.7 R13.2 a tensor is inside its file: nothing is allocated for it before"
    yield announced(
        "rank-huge-vectors",
        rule,
        "rank",
        HUGE,
        configuration={"rank": HUGE, "diagonal": True},
        vectors=("F16", 2, [HUGE, HUGE]),
        values=("F16", 2, [HUGE]),
        diagonal=("F16", 2, [HUGE]),
    )
    yield announced(
        "mask-huge",
        rule,
        "entries",
        HUGE,
        configuration={"kept": 2},
        mask=("U8", 1, [-(-HUGE * (HUGE - 1) // 16)]),
        diagonal=("BF16", 2, [HUGE]),
    )
