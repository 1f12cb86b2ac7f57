"""The reference reader of artifacts: ``python spec/reader.py DIRECTORY``.

Written from the pages of ``spec/`` alone, with numpy and the standard library. It has
no code in common with the package, so that what both accept is what the text says.
This file has sections 8 to 10 of ``format.md``, and the verifier; beside it are JSON
(``reader_json.py``), the tables of the manifest (``reader_members.py``), what holds
between its members (``reader_manifest.py``), structures and storages
(``reader_values.py``).
"""

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from reader_json import LIMIT, Refused, canonical, demand, parse
from reader_manifest import INDEX, read_manifest
from reader_members import TENSOR
from reader_values import SIZES, assemble, decode, tensors

__all__ = ["Refused", "canonical", "digest_of", "read", "read_manifest", "verify"]

Fields = dict[str, dict[str, np.ndarray]]
MOST_ROWS = 4096
"""Rows of a matrix of which eigenvalues are computed (R4.7.6)."""
EXACT = (
    {"name": "float32", "configuration": {}},
    {
        "name": "symmetric",
        "configuration": {"dtype": "float32"},
    },
)
"""Storages of which rounding moves no eigenvalue by more than 1e-5 of the largest."""


def read(path: Path, *, hashes: bool = True) -> dict[str, np.ndarray]:
    """Read an artifact: every factor in float32, as ``assemble`` gives it."""
    manifest, found = read_fields(path, hashes=hashes)
    return {n: sound(n, info, found[n]) for n, info in manifest["factors"].items()}


def sound(
    factor: str, info: dict[str, Any], values: dict[str, np.ndarray]
) -> np.ndarray:
    """Give a factor, finite and symmetric, as ``assemble`` does."""
    finite = all(np.isfinite(v).all() for v in values.values())
    matrix = assemble(info, values)
    exact = np.nan_to_num(matrix.astype(float), nan=0.0, posinf=0.0, neginf=0.0)
    demand(finite and np.isfinite(matrix).all(), f"{factor} is not finite")
    difference = np.linalg.norm(exact - exact.T)  # a vector is as it is turned over
    demand(difference <= 1e-6 * np.linalg.norm(exact), f"{factor} is asymmetric")
    return matrix


def read_fields(path: Path, *, hashes: bool) -> tuple[dict[str, Any], Fields]:
    demand((path / "kfac.json").is_file(), "no manifest, or no regular file")
    demand((path / "kfac.json").stat().st_size <= LIMIT, "too much JSON")
    manifest = read_manifest((path / "kfac.json").read_bytes())
    contents = {}
    for file, info in manifest["files"].items():
        demand((path / file).is_file(), "a file is missing")
        demand((path / file).stat().st_size == info["size"], "size of a file")
        contents[file] = (path / file).read_bytes()
        digest = hashlib.sha256(contents[file]).hexdigest()
        demand(not hashes or digest == info["sha256"], "hash of a file")
    expected = {
        f"{factor}/{key}": entry
        for factor, info in manifest["factors"].items()
        for key, entry in tensors(info).items()
    }
    found: dict[str, bytes] = {}
    holder: dict[str, str] = {}
    for file in contents.keys() - {INDEX}:
        inside = read_tensors(contents[file], expected)
        demand(inside and not inside.keys() & found.keys(), "empty shard, or twice")
        found |= inside
        holder |= dict.fromkeys(inside, file)
    demand(found.keys() == expected.keys(), "a tensor is missing")
    if INDEX in contents:
        total = {"total_size": sum(map(len, found.values()))}
        index = parse(contents[INDEX])
        demand(index == {"metadata": total, "weight_map": holder}, "index")
        demand(type(index["metadata"]["total_size"]) is int, "index")
    return manifest, {
        factor: decode(info, {key: found[f"{factor}/{key}"] for key in tensors(info)})
        for factor, info in manifest["factors"].items()
    }


def read_tensors(
    data: bytes, expected: dict[str, tuple[str, list[int]]]
) -> dict[str, bytes]:
    length = int.from_bytes(data[:8], "little")
    demand(2 <= length <= LIMIT and 8 + length <= len(data), "length of the header")
    text, body = data[8 : 8 + length], data[8 + length :]
    header = parse(text)
    demand(text[:1] == b"{" and isinstance(header, dict), "header")
    demand(text.rstrip(b" ")[-1:] == b"}", "header padded otherwise than with spaces")
    metadata = header.pop("__metadata__", {})
    demand(isinstance(metadata, dict) and len(metadata) <= 1, "metadata")
    demand(all(isinstance(v, str) for v in metadata.values()), "metadata")
    spans = []
    for key, info in header.items():
        demand(TENSOR(info) and key in expected, "a tensor that is not announced")
        dtype, shape = expected[key]
        demand((info["dtype"], info["shape"]) == (dtype, shape), "dtype or shape")
        begin, end = info["data_offsets"]
        demand(end - begin == math.prod(shape) * SIZES[dtype], "offsets")
        spans.append((begin, end))
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(body)]
    demand(edges[::2] == edges[1::2], "hole, overlap or remainder")
    return {k: body[slice(*info["data_offsets"])] for k, info in header.items()}


def verify(path: Path) -> dict[str, np.ndarray]:
    """Read an artifact and refuse values that no factor may have."""
    manifest, found = read_fields(path, hashes=True)
    sums = [block["terms"] for block in manifest["blocks"].values()]
    summed = {f for terms in sums if len(terms) > 1 for t in terms for f in t.values()}
    factors = {}
    for factor, info in manifest["factors"].items():
        matrix = factors[factor] = sound(factor, info, found[factor])
        if factor not in summed and not too_large(info):
            low, high = extremes(info["structure"]["name"], found[factor], matrix)
            share = 1e-5 if info["storage"] in EXACT else 1e-2
            lowest = -share * max(abs(low), abs(high))
            demand(low >= lowest, f"{factor} is indefinite")
    return factors


def too_large(info: dict[str, Any]) -> bool:
    """Whether a factor is left out, so that a small file costs little (R4.7.6)."""
    cheap = info["structure"]["name"] in {"low_rank", "diagonal"}
    return info["dim"] > MOST_ROWS and not cheap


def extremes(
    structure: str, values: dict[str, np.ndarray], matrix: np.ndarray
) -> tuple[float, float]:
    """The smallest and the largest eigenvalue, or what is compared in their place."""
    if structure == "low_rank":
        return bounds(values)
    if structure == "diagonal":
        return float(values["values"].min()), float(values["values"].max())
    eigenvalues = np.linalg.eigvalsh(matrix.astype(float))
    return float(eigenvalues[0]), float(eigenvalues[-1])


def bounds(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """What ``structures/low_rank.md`` compares in place of eigenvalues."""
    wide = {name: field.astype(float) for name, field in values.items()}
    parts = wide["values"] * (wide["vectors"] ** 2).sum(1)
    low, high = parts.clip(max=0).sum(), parts.clip(min=0).sum()
    rest = wide.get("diagonal", np.zeros(1))
    least = min(rest.min(), 0) if low < 0 else rest.min()
    return float(low + least), float(high + rest.max())


def digest_of(path: Path) -> str:
    """Name an artifact by the canonical form of its manifest."""
    text = canonical(parse((path / "kfac.json").read_bytes()))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def main(arguments: list[str]) -> int:
    """Verify an artifact, and say what its factors are."""
    if len(arguments) != 1:
        print(f"usage: python {sys.argv[0]} DIRECTORY", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        factors = verify(path)
        infos = read_manifest((path / "kfac.json").read_bytes())["factors"]
    except (Refused, OSError) as error:
        print(f"{path} is no artifact that can be used: {error}", file=sys.stderr)
        return 1
    print(digest_of(path))
    for factor, matrix in factors.items():
        norm = np.linalg.norm(matrix.astype(float))
        note = ", eigenvalues not computed" * too_large(infos[factor])
        print(f"{factor}: {len(matrix)} x {len(matrix)}, norm {norm:.6g}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
