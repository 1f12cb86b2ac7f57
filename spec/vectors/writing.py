"""The tensors that a writer makes of a factor, number by number, exactly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rounding import float_bytes, rounded, row_codes, single, spelled
from stored import named

Matrix = Sequence[Sequence[float]]
KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ROW = 64


@dataclass
class Written:
    """The tensors of a factor under one storage."""

    storage: str
    tensors: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The number type of floats; of those that stay floats under int8."""
        return KINDS.get(self.storage.rpartition("-")[2], "BF16")

    def put(self, name: str, kind: str, shape: list[int], content: bytes) -> None:
        """Note a tensor."""
        self.tensors[name] = {"dtype": kind, "shape": shape, "hex": content.hex()}

    def floats(self, name: str, shape: list[int], values: Sequence[float]) -> None:
        """Store numbers as floats (R9.2.1)."""
        found = (float_bytes(rounded(single(x), self.kind), self.kind) for x in values)
        self.put(name, self.kind, shape, b"".join(found))

    def entries(self, name: str, values: Matrix | Sequence[float]) -> None:
        """Store numbers of like magnitude."""
        matrix = [[*map(single, row)] for row in values] if nested(values) else None
        flat = [*map(single, values)] if matrix is None else [*chain(*matrix)]
        shape = [len(values)] if matrix is None else [len(matrix), len(matrix[0])]
        if self.storage != "int8":
            self.floats(name, shape, flat)
            return
        starts = range(0, len(flat), ROW)
        rows = matrix if matrix is not None else [flat[i : i + ROW] for i in starts]
        self.quantised(name, shape, rows, [len(rows)])

    def matrices(self, name: str, stack: Sequence[Matrix], shape: list[int]) -> None:
        """Store symmetric matrices: what is above their diagonals (R9.2.4)."""
        size = shape[-1]
        above = range(size)
        if self.storage.startswith("symmetric"):
            packed = [m[i][j] for m in stack for i in above for j in above if j >= i]
            self.floats(name, [*shape[:-2], size * (size + 1) // 2], packed)
        elif self.storage == "int8":
            rows = [[*map(single, m[i][i + 1 :])] for m in stack for i in above]
            codes = [*shape[:-2], size * (size - 1) // 2]
            self.quantised(name, codes, rows, shape[:-1])
            diagonals = [single(m[i][i]) for m in stack for i in above]
            content = b"".join(float_bytes(x, "F32") for x in diagonals)
            self.put(f"{name}.diagonal", "F32", shape[:-1], content)
        else:
            places = [(min(i, j), max(i, j)) for i in above for j in above]
            self.floats(name, shape, [m[i][j] for m in stack for i, j in places])

    def quantised(
        self, name: str, shape: list[int], rows: Matrix, scales: list[int]
    ) -> None:
        """Store rows as int8, with a scale for each."""
        found = [row_codes([*row]) for row in rows]
        codes = bytes(code % 256 for row, _ in found for code in row)
        self.put(name, "I8", shape, codes)
        content = b"".join(float_bytes(scale, "F32") for _, scale in found)
        self.put(f"{name}.scales", "F32", scales, content)


def nested(values: Any) -> bool:
    """Whether there are two axes."""
    return bool(values) and isinstance(values[0], list | tuple)


def written(case: dict[str, Any], storage: str) -> dict[str, Any]:
    """Write the factor of a case."""
    out = Written(storage)
    STRUCTURES[case["structure"]["name"]](out, case)
    return out.tensors


def dense(out: Written, case: dict[str, Any]) -> None:
    """Every entry."""
    out.matrices("matrix", [case["matrix"]], [case["dim"]] * 2)


def diagonal(out: Written, case: dict[str, Any]) -> None:
    """The diagonal alone."""
    out.entries("values", diagonal_of(case))


def block_diagonal(out: Written, case: dict[str, Any]) -> None:
    """Runs of blocks."""
    told = case["structure"]["configuration"]
    order = case.get("permutation", range(case["dim"]))
    stacks = runs(case["matrix"], told["blocks"], [*order])
    for i, (stack, (count, size)) in enumerate(stacks):
        out.matrices(f"blocks_{i}", stack, [count, size, size])
    if told["permuted"]:
        content = b"".join(k.to_bytes(4, "little") for k in order)
        out.put("permutation", "I32", [case["dim"]], content)


def low_rank(out: Written, case: dict[str, Any]) -> None:
    """Vectors with their values, and what may be on the diagonal."""
    fields = case["fields"]
    out.entries("vectors", fields["vectors"])
    for name in ("values", "diagonal"):
        if name in fields:
            out.floats(name, [len(fields[name])], fields[name])


def pruned(out: Written, case: dict[str, Any]) -> None:
    """The diagonal, and what is not zero above it."""
    matrix, dim = case["matrix"], case["dim"]
    entries = [matrix[i][j] for i in range(dim) for j in range(i + 1, dim)]
    bits = sum(1 << k for k, entry in enumerate(entries) if entry)
    size = (len(entries) + 7) // 8
    out.put("mask", "U8", [size], bits.to_bytes(size, "little"))
    out.entries("values", [entry for entry in entries if entry])
    out.floats("diagonal", [dim], [matrix[i][i] for i in range(dim)])


STRUCTURES = {
    "dense": dense,
    "diagonal": diagonal,
    "block_diagonal": block_diagonal,
    "low_rank": low_rank,
    "pruned": pruned,
}


def diagonal_of(case: dict[str, Any]) -> list[float]:
    """Give the values of a diagonal factor, however the case tells them."""
    if "table" in case:
        return [*chain(*case["table"])]
    if "fields" in case:
        return list(case["fields"]["values"])
    return [case["matrix"][i][i] for i in range(case["dim"])]


def runs(
    matrix: Matrix, blocks: list[list[int]], order: list[int]
) -> Iterator[tuple[list[Matrix], list[int]]]:
    """Cut the blocks out of a matrix."""
    start = 0
    for count, size in blocks:
        stack = []
        for _ in range(count):
            place = order[start : start + size]
            stack.append([[matrix[i][j] for j in place] for i in place])
            start += size
        yield stack, [count, size]


def described(storage: str) -> dict[str, Any]:
    """Name a storage as the manifest does."""
    kind, _, dtype = storage.rpartition("-")
    return named(kind, dtype=dtype) if kind else named(storage)


def in_json(value: Any) -> Any:
    """Write numbers that JSON has not as text."""
    if isinstance(value, float):
        return spelled(value)
    if isinstance(value, list | tuple):
        return [in_json(item) for item in value]
    if isinstance(value, dict):
        return {key: in_json(item) for key, item in value.items()}
    return value
