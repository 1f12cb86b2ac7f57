"""Factors as they are stored, and the matrices that they stand for.

A structure is a function that hands its fields to a ``Writer``, one method for each
role; the writer stores a field and gives back what a reader will decode.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tensor = tuple[str, list[int], bytes]
"""Number type, shape and bytes."""
ITEMS = {
    "float32": ("F32", "<f4"),
    "float16": ("F16", "<f2"),
    "int8": ("I8", "i1"),
    "uint8": ("U8", "u1"),
    "int32": ("I32", "<i4"),
    "int64": ("I64", "<i8"),
}
ONE_127TH = np.uint32(0x3C010204).view(np.float32)
ROW = 64
"""Entries that share a scale, in a field with one axis."""


@dataclass
class Codes:
    """A field under int8; of a matrix or a stack of them with ``diagonal``."""

    codes: np.ndarray
    scales: np.ndarray
    diagonal: np.ndarray | None = None

    def decode(self) -> np.ndarray:
        """Give the float32 numbers, of the shape of the field."""
        codes, scales = self.codes.astype("f4"), self.scales.astype("f4")
        if self.diagonal is None:
            return codes * spread(scales, self.codes) * ONE_127TH
        size = self.diagonal.shape[-1]
        rows, columns = np.triu_indices(size, 1)
        matrix = np.zeros((*self.diagonal.shape, size), "f4")
        matrix[..., rows, columns] = codes * scales[..., rows] * ONE_127TH
        matrix += np.swapaxes(matrix, -1, -2)
        matrix[..., range(size), range(size)] = self.diagonal
        return matrix


def spread(scales: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Give every entry the scale of its row."""
    if entries.ndim == 2:
        return scales[:, None]
    return np.repeat(scales, ROW)[: entries.size]


def quantised(values: np.ndarray) -> Codes:
    """Choose scales and codes of entries, as a writer should."""
    values = np.asarray(values, "f4")
    if values.ndim == 2:
        scales = np.abs(values).max(-1)
    else:
        starts = range(0, values.size, ROW)
        scales = np.array([np.abs(values[i : i + ROW]).max() for i in starts], "f4")
    return Codes(nearest_codes(values, spread(scales, values)), scales)


def quantised_matrix(matrix: np.ndarray) -> Codes:
    """Choose scales and codes of a symmetric matrix, or of a stack of them."""
    matrix = np.asarray(matrix, "f4")
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    scales = np.abs(np.triu(matrix, 1)).max(-1)
    codes = nearest_codes(matrix[..., rows, columns], scales[..., rows])
    return Codes(codes, scales, np.diagonal(matrix, axis1=-2, axis2=-1))


def nearest_codes(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Round to codes, half to even; zero where the scale is zero."""
    used = np.where(scales > 0, scales, np.float32(1))
    codes = np.rint(values * (np.float32(127) / used))
    return np.where(scales > 0, codes, 0).astype("i1")


def tensor(values: Any, dtype: str) -> Tensor:
    """Store values, little-endian; they must be exact in the number type."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
        if np.any(bits & 0xFFFF):
            raise ValueError("not exact in bfloat16")
        stored, name = (bits >> 16).astype("<u2"), "BF16"
    else:
        name, kind = ITEMS[dtype]
        stored = np.asarray(values).astype(kind, order="C")
        if not np.array_equal(stored.astype(float), values, equal_nan=True):
            raise ValueError(f"not exact in {dtype}")
    return name, list(np.shape(values)), stored.tobytes()


@dataclass
class Stored:
    """A factor: its exact matrix, and how it is stored."""

    matrix: np.ndarray
    structure: dict[str, Any]
    storage: dict[str, Any]
    tensors: dict[str, Tensor]
    loss: dict[str, float] | None = None
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    """Decoded fields, where blocks need them."""

    def to_json(self) -> dict[str, Any]:
        """Describe the factor as the manifest does."""
        described = {
            "dim": len(self.matrix),
            "structure": self.structure,
            "storage": self.storage,
        }
        return described if self.loss is None else described | {"loss": self.loss}


@dataclass
class Writer:
    """Stores the fields of one factor; ``storage`` such as ``symmetric-float16``."""

    storage: str
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def matrix(self, name: str, values: np.ndarray | Codes) -> np.ndarray:
        """Store a symmetric matrix, or a stack of them."""
        if self.storage == "int8":
            codes = values if isinstance(values, Codes) else quantised_matrix(values)
            return self._int8(name, codes)
        kind, _, dtype = self.storage.rpartition("-")
        kept = values
        if kind == "symmetric":
            kept = values[..., *np.triu_indices(values.shape[-1])]
        self.tensors[name] = tensor(kept, dtype)
        return values

    def entries(self, name: str, values: np.ndarray | Codes) -> np.ndarray:
        """Store numbers of like magnitude."""
        if self.storage != "int8":
            return self.weights(name, values)
        codes = values if isinstance(values, Codes) else quantised(values)
        return self._int8(name, codes)

    def weights(self, name: str, values: np.ndarray) -> np.ndarray:
        """Store numbers of any magnitude."""
        dtype = self.storage.rpartition("-")[2]
        self.tensors[name] = tensor(values, {"int8": "bfloat16"}.get(dtype, dtype))
        return values

    def raw(self, name: str, values: np.ndarray, dtype: str) -> None:
        """Store bits or indices, as they are."""
        self.tensors[name] = tensor(values, dtype)

    def _int8(self, name: str, field: Codes) -> np.ndarray:
        self.tensors[name] = tensor(field.codes, "int8")
        self.tensors[f"{name}.scales"] = tensor(field.scales, "float32")
        if field.diagonal is not None:
            self.tensors[f"{name}.diagonal"] = tensor(field.diagonal, "float32")
        return field.decode()

    def stored(self, matrix: np.ndarray, name: str, **configuration: Any) -> Stored:
        """Give the factor whose fields have been stored."""
        kind, _, dtype = self.storage.rpartition("-")
        storage = named(kind, dtype=dtype) if kind else named(dtype)
        exact = matrix.astype(float) + 0.0  # without negative zeros
        return Stored(exact, named(name, **configuration), storage, self.tensors)


def dense(matrix: np.ndarray | Codes, storage: str = "float32") -> Stored:
    """Store every entry."""
    writer = Writer(storage)
    return writer.stored(writer.matrix("matrix", matrix), "dense")


def diagonal(values: Sequence[float] | Codes, storage: str = "float32") -> Stored:
    """Store the diagonal of a matrix that is zero elsewhere."""
    writer = Writer(storage)
    entries = values if isinstance(values, Codes) else np.array(values)
    return writer.stored(np.diag(writer.entries("values", entries)), "diagonal")


def block_diagonal(
    runs: Sequence[np.ndarray | Codes],
    storage: str = "float32",
    permutation: Sequence[int] | None = None,
) -> Stored:
    """Store runs of blocks, each a stack of one size."""
    writer = Writer(storage)
    stacks = [writer.matrix(f"blocks_{i}", run) for i, run in enumerate(runs)]
    blocks = [list(map(int, stack.shape[:2])) for stack in stacks]
    dim = sum(count * size for count, size in blocks)
    order = np.arange(dim)
    if permutation is not None:
        order = np.array(permutation)
        writer.raw("permutation", order, "int32")
    matrix, start = np.zeros((dim, dim)), 0
    for block in (block for stack in stacks for block in stack):
        place = order[start : start + len(block)]
        matrix[np.ix_(place, place)] = block
        start += len(block)
    permuted = permutation is not None
    return writer.stored(matrix, "block_diagonal", blocks=blocks, permuted=permuted)


def low_rank(
    vectors: np.ndarray | Codes,
    values: Sequence[float],
    storage: str = "float32",
    diagonal: Sequence[float] | None = None,
) -> Stored:
    """Store a weighted sum of outer products; it must be exact in any order."""
    writer = Writer(storage)
    x = writer.entries("vectors", vectors)
    v = writer.weights("values", np.array(values))
    rest = np.zeros(x.shape[1])
    if diagonal is not None:
        rest = writer.weights("diagonal", np.array(diagonal))
    terms = [np.outer(w * a, a) for w, a in zip(v, x.astype(float), strict=True)]
    terms.append(np.diag(rest).astype(float))
    matrix = sum(terms).astype("f4")
    for order in (terms, terms[::-1]):
        total = np.zeros_like(matrix)
        for term in order:
            total += term.astype("f4")
        if not np.array_equal(total, matrix):
            raise ValueError("the sum depends on its order")
    configuration = {"rank": len(v), "diagonal": diagonal is not None}
    found = writer.stored(matrix, "low_rank", **configuration)
    found.fields = {"vectors": x, "values": v}
    return found


def pruned(
    kept: Sequence[int],
    values: np.ndarray | Codes,
    diagonal: np.ndarray,
    storage: str = "float32",
) -> Stored:
    """Store the entries above the diagonal whose numbers are in ``kept``."""
    writer, dim = Writer(storage), len(diagonal)
    rows, columns = np.triu_indices(dim, 1)
    bits = np.zeros(len(rows), bool)
    bits[list(kept)] = True
    writer.raw("mask", np.packbits(bits, bitorder="little"), "uint8")
    decoded = writer.entries("values", values)
    matrix = np.diag(writer.weights("diagonal", diagonal)).astype(float)
    matrix[rows[bits], columns[bits]] = matrix[columns[bits], rows[bits]] = decoded
    return writer.stored(matrix, "pruned", kept=len(kept))


def named(name: str, **configuration: Any) -> dict[str, Any]:
    """Give a name with its configuration."""
    return {"name": name, "configuration": configuration}
