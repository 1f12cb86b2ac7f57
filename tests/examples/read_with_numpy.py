"""Read an artifact with numpy and the standard library alone.

Run with ``python tests/examples/read_with_numpy.py DIRECTORY``. It reads factors of
structure ``dense`` or ``diagonal`` stored as float32 or float64 numbers, whole or by
triangles: what ``kfac compute`` writes. ``spec/`` has the other pages.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def read_tensors(path: Path) -> dict[str, Array]:
    """Read a file of safetensors: a length, a header in JSON, the numbers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in about["data_offsets"])
            numbers = np.frombuffer(data[begin:end], {"F32": "<f4"}[about["dtype"]])
            tensors[name] = numbers.reshape(about["shape"])
    return tensors


def read_factors(directory: Path) -> dict[str, Array]:
    """Read every factor as a matrix, or a diagonal as a vector."""
    manifest = json.loads((directory / "kfac.json").read_text("utf-8"))
    tensors: dict[str, Array] = {}
    for file in directory.glob("*.safetensors"):
        tensors |= read_tensors(file)
    factors = {}
    for name, about in manifest["factors"].items():
        field = {"dense": "matrix", "diagonal": "diagonal"}[about["structure"]["name"]]
        numbers = tensors[f"{name}/{field}"]
        if field == "matrix" and about["storage"]["name"] == "symmetric":
            numbers = _from_triangle(numbers, about["dim"])
        factors[name] = numbers
    return factors


def _from_triangle(entries: Array, dim: int) -> Array:
    matrix = np.zeros((dim, dim), entries.dtype)
    matrix[np.triu_indices(dim)] = entries
    return matrix + np.triu(matrix, 1).T


def main(directory: Path) -> dict[str, Array]:
    """Print the size and the trace of every factor."""
    factors = read_factors(directory)
    for name, numbers in factors.items():
        trace = np.trace(numbers) if numbers.ndim == 2 else numbers.sum()
        print(f"{name}: {numbers.shape}, trace {trace:.4g}")
    return factors


if __name__ == "__main__":
    main(Path(sys.argv[1]))
