"""The reference writer of factors: from numbers to the tensors of a tensor file.

Written from section 9.2 of ``format.md``, ``spec/structures/`` and ``spec/storage/``
alone, with numpy, as the reader is. A factor is told as in ``vectors/writing``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from reader import EXACT, extremes
from reader_json import Refused, demand
from reader_values import DTYPES, RAW, assemble, decode, fields

__all__ = ["Refused", "write"]

Tensors = dict[str, tuple[str, np.ndarray]]
"""Number types, and numbers; of BF16 the bits."""
HALF = {"F16": "float16.2", "BF16": "bfloat16.2"}
ROW = 64


@np.errstate(all="ignore")  # what overflows is refused
def write(factor: dict[str, Any]) -> Tensors:
    """Give the tensors of a factor, by field and suffix."""
    info = {key: factor[key] for key in ("dim", "structure", "storage")}
    given, found = numbers_of(factor), Tensors()
    for field, (role, _) in fields(info).items():
        for suffix, tensor in encoded(given[field], role, info["storage"]):
            found[field + suffix] = tensor
    check(info, found)
    return found


def check(info: dict[str, Any], found: Tensors) -> None:
    """Read it again, as a verifier does."""
    data = {key: values.tobytes() for key, (_, values) in found.items()}
    decoded = decode(info, data)
    matrix = assemble(info, decoded)
    demand(np.isfinite(matrix).all(), "R9.2: an entry is beyond float32")
    low, high = extremes(info["structure"]["name"], decoded, matrix)
    share = 1e-5 if info["storage"] in EXACT else 1e-2
    demand(low >= -share * max(abs(low), abs(high)), "R14.3: indefinite")


# Structures: from a matrix to fields


def numbers_of(factor: dict[str, Any]) -> dict[str, np.ndarray]:
    """Give the fields of a factor in float64."""
    if "fields" in factor:
        return {name: np.array(x, float) for name, x in factor["fields"].items()}
    if "table" in factor:
        return {"values": np.array(factor["table"], float).reshape(-1)}
    matrix = np.array(factor["matrix"], float)
    upper = matrix[np.triu_indices(len(matrix), 1)]
    match factor["structure"]["name"]:
        case "dense":
            return {"matrix": matrix}
        case "diagonal":
            return {"values": np.diag(matrix)}
        case "block_diagonal":
            return cut(matrix, factor)
        case _:
            mask = np.packbits(upper != 0, bitorder="little")
            kept = {"mask": mask, "values": upper[upper != 0]}
            return kept | {"diagonal": np.diag(matrix)}


def cut(matrix: np.ndarray, factor: dict[str, Any]) -> dict[str, np.ndarray]:
    """Cut blocks out along the diagonal, in the order that is given."""
    order = np.array(factor.get("permutation", range(len(matrix))))
    turned, found, start = matrix[np.ix_(order, order)], {}, 0
    for i, (count, size) in enumerate(factor["structure"]["configuration"]["blocks"]):
        edges = range(start, start + count * size, size)
        found[f"blocks_{i}"] = np.stack([turned[e:, e:][:size, :size] for e in edges])
        start += count * size
    return found | {"permutation": order}


# Storages: from fields to tensors


def encoded(
    values: np.ndarray, role: str, storage: dict[str, Any]
) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """Give the tensors of a field, by their suffixes."""
    if role in RAW:
        yield "", (RAW[role], values.astype({"bits": "u1", "indices": "<i4"}[role]))
        return
    dtype = storage["configuration"].get("dtype", storage["name"])
    if role == "matrix":
        values = mirrored(values)
    if dtype == "int8" and role != "weights":
        yield from quantised(values, role)
        return
    if role == "matrix" and storage["name"] == "symmetric":
        values = values[..., *np.triu_indices(values.shape[-1])]
    yield "", floats(values, DTYPES.get(dtype, "BF16"))


def mirrored(x: np.ndarray) -> np.ndarray:
    """Put what is above the diagonal in the place of what is below (R9.2.4)."""
    unit = np.abs(x).max() or 1.0
    loss = np.linalg.norm((x - np.swapaxes(x, -1, -2)) / unit)
    demand(not loss > 1e-4 * np.linalg.norm(x / unit), "R9.2.3: asymmetric")
    upper = np.triu(np.ones(x.shape[-2:], bool))
    return np.where(upper, x, np.swapaxes(x, -1, -2))


def single(values: np.ndarray) -> np.ndarray:
    """Round to binary32."""
    found = values.astype("<f4")
    demand(np.isfinite(found).all(), "R9.2.2: not finite in binary32")
    return found


def floats(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    """Round to a number type, ties to even."""
    found = decoded = single(values)
    if dtype == "F16":
        found = decoded = found.astype("<f2")
    if dtype == "BF16":
        bits = found.view("<u4").astype(np.uint64)
        found = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
        decoded = (found.astype("<u4") << 16).view("<f4")
    if dtype in HALF:
        demand(np.isfinite(decoded).all(), f"{HALF[dtype]}: too large for {dtype}")
    unit = np.abs(values).max(initial=0.0) or 1.0
    loss = np.linalg.norm((decoded.astype(float) - values) / unit)
    demand(not loss > 2**-7 * np.linalg.norm(values / unit), "R9.2.5: too much is lost")
    return dtype, found


def quantised(
    values: np.ndarray, role: str
) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """Round the rows of entries, or of what is above the diagonals of matrices."""
    x = single(values)
    rows = np.triu(x, 1) if role == "matrix" else x
    if x.ndim == 1:
        rows = np.append(x, np.zeros(-x.size % ROW, "<f4")).reshape(-1, ROW)
    scales = np.abs(rows).max(-1, initial=0)
    demand((scales <= 2.0**121).all(), "int8.4: beyond 2^121")
    factors = np.divide(np.float32(127), scales, where=scales > 0, out=0 * scales)
    scales[~np.isfinite(factors)] = factors[~np.isfinite(factors)] = 0
    codes = np.rint(rows * factors[..., None]).astype("i1")
    if role == "matrix":
        yield "", ("I8", codes[..., *np.triu_indices(x.shape[-1], 1)])
    else:
        yield "", ("I8", codes.reshape(-1)[: x.size].reshape(x.shape))
    yield ".scales", ("F32", scales)
    if role == "matrix":
        diagonal = np.diagonal(x, axis1=-2, axis2=-1)
        yield ".diagonal", ("F32", diagonal)
