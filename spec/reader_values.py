"""Structures and storages of the independent reader: from bytes to matrices.

Written from ``spec/structures/`` and ``spec/storage/`` alone, like the reader.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from reader_json import demand

Info = Mapping[str, Any]
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4}
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
RAW = {"bits": "U8", "indices": "I32"}
KINDS = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I32": "<i4"}
C = np.array([0x3C010204], np.uint32).view(np.float32)[0]


# What the manifest announces


def check_structure(info: Info) -> None:
    dim, told = info["dim"], info["structure"]["configuration"]
    if "blocks" in told:
        sizes = [size for _, size in told["blocks"]]
        demand(sum(n * s for n, s in told["blocks"]) == dim, "rows of the blocks")
        demand(all(map(int.__ne__, sizes, sizes[1:])), "neighbours of one size")
    demand(told.get("rank", 1) <= dim, "rank")
    demand(told.get("kept", 0) <= dim * (dim - 1) // 2, "kept")


def fields(info: Info) -> dict[str, tuple[str, list[int]]]:
    """Role and shape of every field."""
    dim, told = info["dim"], info["structure"]["configuration"]
    match info["structure"]["name"]:
        case "dense":
            return {"matrix": ("matrix", [dim, dim])}
        case "diagonal":
            return {"values": ("entries", [dim])}
        case "block_diagonal":
            runs = enumerate(told["blocks"])
            found = {f"blocks_{i}": ("matrix", [n, s, s]) for i, (n, s) in runs}
            order = {"permutation": ("indices", [dim])}
            return found | (order if told["permuted"] else {})
        case "low_rank":
            rank = told["rank"]
            found = {"vectors": ("entries", [rank, dim]), "values": ("weights", [rank])}
            rest = {"diagonal": ("weights", [dim])}
            return found | (rest if told["diagonal"] else {})
        case _:
            return {
                "mask": ("bits", [(dim * (dim - 1) + 15) // 16]),
                "values": ("entries", [told["kept"]]),
                "diagonal": ("weights", [dim]),
            }


def tensors(info: Info) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of every tensor: a field with a suffix or none."""
    found: dict[str, tuple[str, list[int]]] = {}
    storage = info["storage"]
    dtype = DTYPES.get(storage["configuration"].get("dtype", storage["name"]), "BF16")
    for field, (role, shape) in fields(info).items():
        *stack, size = shape[:-1] or [0]
        if role in RAW:
            found[field] = (RAW[role], shape)
        elif storage["name"] == "symmetric" and role == "matrix":
            found[field] = (dtype, [*stack, size * (size + 1) // 2])
        elif storage["name"] != "int8" or role == "weights":
            found[field] = (dtype, shape)
        elif role == "matrix":
            found[field] = ("I8", [*stack, size * (size - 1) // 2])
            found[f"{field}.scales"] = ("F32", [*stack, size])
            found[f"{field}.diagonal"] = ("F32", [*stack, size])
        else:
            rows = shape[:1] if len(shape) == 2 else [(shape[0] + 63) // 64]
            found[field] = ("I8", shape)
            found[f"{field}.scales"] = ("F32", rows)
    return found


# Storages: from tensors to fields


def decode(info: Info, data: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Decode every field of a factor; ``data`` holds its tensors without its name."""
    raw = {
        key: numbers(data[key], dtype).reshape(shape)
        for key, (dtype, shape) in tensors(info).items()
    }
    found = {}
    for field, (role, shape) in fields(info).items():
        values = raw[field]
        scales = raw.get(f"{field}.scales")
        if scales is not None:
            demand((values != -128).all(), "code -128")
            demand((np.isfinite(scales) & (scales >= 0)).all(), "scale")
            values = dequantise(values, scales, raw.get(f"{field}.diagonal"))
        elif role == "matrix" and info["storage"]["name"] == "symmetric":
            values = mirror(values, shape)
        found[field] = values
    return found


def numbers(data: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32)
    found = np.frombuffer(data, KINDS[dtype])
    return found.astype(np.float32) if dtype == "F16" else found.copy()


def mirror(packed: np.ndarray, shape: list[int]) -> np.ndarray:
    found = np.empty(shape, np.float32)
    d = shape[-1]
    for i in range(d):
        for j in range(i, d):
            k = i * d - i * (i - 1) // 2 + (j - i)
            found[..., i, j] = found[..., j, i] = packed[..., k]
    return found


def dequantise(
    codes: np.ndarray, scales: np.ndarray, diagonal: np.ndarray | None
) -> np.ndarray:
    if diagonal is None:
        rows = scales if codes.ndim == 2 else scales[np.arange(codes.size) // 64]
        return product(codes, rows[:, None] if codes.ndim == 2 else rows)
    d = diagonal.shape[-1]
    found = np.empty((*diagonal.shape, d), np.float32)
    start = 0
    for i in range(d):
        end = start + d - 1 - i
        row = product(codes[..., start:end], scales[..., i : i + 1])
        found[..., i, i + 1 :] = found[..., i + 1 :, i] = row
        found[..., i, i] = diagonal[..., i]
        start = end
    return found


def product(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return (codes.astype(np.float32) * scales) * C


# Structures: from fields to a matrix


def assemble(info: Info, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Give the matrix that the fields of a factor stand for, in float32.

    Returns:
        A matrix; of a diagonal one its values, a vector, since an eigen block has one
        with a row for every parameter.
    """
    dim = info["dim"]
    match info["structure"]["name"]:
        case "dense":
            return found["matrix"]
        case "diagonal":
            return found["values"]
        case "block_diagonal":
            return blocks(found, dim)
        case "low_rank":
            return outer_products(found)
        case _:
            return scatter(found, dim)


def blocks(found: Mapping[str, np.ndarray], dim: int) -> np.ndarray:
    order = found.get("permutation", np.arange(dim))
    demand(sorted(order.tolist()) == list(range(dim)), "permutation")
    matrix = np.zeros((dim, dim), np.float32)
    runs = [found[f] for f in found if f != "permutation"]
    start = 0
    for block in (block for run in runs for block in run):
        for i, row in enumerate(block):
            for j, entry in enumerate(row):
                matrix[order[start + i], order[start + j]] = entry
        start += len(block)
    return matrix


def outer_products(found: Mapping[str, np.ndarray]) -> np.ndarray:
    x, v = found["vectors"].astype(float), found["values"].astype(float)
    with np.errstate(over="ignore", invalid="ignore"):
        total = (x.T * v) @ x
        if "diagonal" in found:
            total += np.diag(found["diagonal"])
        return total.astype(np.float32)


def scatter(found: Mapping[str, np.ndarray], dim: int) -> np.ndarray:
    mask, values = found["mask"], iter(found["values"])
    kept = [k for k in range(8 * mask.size) if mask[k // 8] >> (k % 8) & 1]
    demand(len(kept) == found["values"].size, "bits of the mask")
    demand(max(kept, default=-1) < dim * (dim - 1) // 2, "unused bits of the mask")
    matrix = np.diag(found["diagonal"])
    pairs = [(i, j) for i in range(dim) for j in range(i + 1, dim)]
    for k in kept:
        i, j = pairs[k]
        matrix[i, j] = matrix[j, i] = next(values)
    return matrix
