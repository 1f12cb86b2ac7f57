"""Small artifacts built by hand, with numpy and the standard library only.

The tests build theirs by the library (tests/artifacts.py); these must not, since they
are what the library is judged by.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from decimal import Decimal
from math import prod
from typing import Any

import numpy as np
from stored import Stored, Tensor, named

SINGLE = "factors.safetensors"
INDEX = "factors.safetensors.index.json"


@dataclass
class Draft:
    """An artifact in memory: still free to be broken.

    A shard is a list of factors, or of single tensors.
    """

    manifest: dict[str, Any]
    factors: dict[str, Stored]
    shards: list[list[str]]
    files: dict[str, bytes] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    """What the text of the manifest has in place of what Python writes."""

    def seal(self) -> "Draft":
        """Make the tensor files from the factors, and list them in the manifest."""
        names = [SINGLE]
        if len(self.shards) > 1:
            count = len(self.shards)
            numbers = range(1, count + 1)
            names = [f"factors-{i:05d}-of-{count:05d}.safetensors" for i in numbers]
        weight_map = {}
        tensors = {
            f"{factor}/{field}": tensor
            for factor, stored in self.factors.items()
            for field, tensor in stored.tensors.items()
        }
        for name, shard in zip(names, self.shards, strict=True):
            entries = {
                key: tensors[key]
                for part in shard
                for key in tensors
                if part in {key, key.rpartition("/")[0]}
            }
            self.files[name] = tensor_file(entries)
            weight_map |= dict.fromkeys(entries, name)
        if len(names) > 1:
            total = sum(len(content) for *_, content in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            self.files[INDEX] = dump(index)
        return self.relist()

    def relist(self) -> "Draft":
        """Bring the manifest's sizes and hashes in line with the files."""
        self.manifest["files"] = {
            n: {"size": len(c), "sha256": sha256(c)} for n, c in self.files.items()
        }
        return self

    @property
    def text(self) -> bytes:
        """The manifest as it is written."""
        text = dump(self.manifest).decode()
        for usual, other in self.spelling.items():
            if usual not in text:
                raise ValueError(usual)
            text = text.replace(usual, other)
        return text.encode()

    @property
    def digest(self) -> str:
        """The digest: of the canonical form."""
        return "sha256:" + sha256(canonical(self.manifest).encode())


def tensor_file(
    entries: dict[str, Tensor],
    *,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Lay a safetensors file out."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    content = b""
    for name, (dtype, shape, data) in entries.items():
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        content += data
    return with_header(header, content)


def with_header(header: object, content: bytes) -> bytes:
    """Put a header, padded to 8 bytes, before the bytes of the tensors."""
    text = header if isinstance(header, bytes) else compact(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


def split(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a safetensors file apart: header and bytes of the tensors."""
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def artifact(
    shapes: dict[str, list[int]],
    blocks: dict[str, Any],
    factors: dict[str, Stored],
    *,
    shards: list[list[str]] | None = None,
    **fields: Any,
) -> Draft:
    """Draft an artifact of one task; ``fields`` replaces parts of the manifest."""
    sources = fields.pop("sources", [source()])
    manifest = {
        "format": "kfac-artifact",
        "version": 1,
        "base_model": base_model(shapes),
        "output_map": named("sentence-embedding", pooling="mean", normalise=True),
        "estimator": named("kfac"),
        "tasks": len(sources),
        "size": sum(s["data"]["size"] for s in sources),
        "sources": sources,
        "excluded": [],
        "uncovered": {},
        "merge_errors": {},
        "blocks": blocks,
        "factors": {name: stored.to_json() for name, stored in factors.items()},
        "files": {},
    }
    manifest |= fields
    return Draft(manifest, factors, shards or [list(factors)]).seal()


def base_model(shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Describe a model; the values of its parameters are made up."""
    parameters = {}
    for i, (name, shape) in enumerate(shapes.items()):
        values = np.arange(prod(shape), dtype="<f4") + i
        parameters[name] = {"shape": shape, "sha256": sha256(values.tobytes())}
    return {
        "id": "example/tiny",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "sha256": overall(parameters),
        "parameters": parameters,
    }


def overall(parameters: dict[str, Any]) -> str:
    """Hash the lines of the parameters, sorted by name."""
    lines = (f"{name} {parameters[name]['sha256']}\n" for name in sorted(parameters))
    return sha256("".join(lines).encode())


def source(
    name: str = "example/texts", size: int = 64, digest: str | None = None
) -> dict[str, Any]:
    """Describe a task."""
    return {
        "data": {
            "id": name,
            "config": None,
            "split": "train",
            "fingerprint": sha256(name.encode()),
            "examples": 32,
            "size": size,
            "preprocessing": named("tokenize", max_length=128),
        },
        "cotangents": {"name": "mc", "draws": 1, "seed": 0},
        "digest": digest,
    }


def kronecker(
    weight: str,
    *terms: tuple[str, str],
    bias: str | None = None,
    layout: str = "rows",
    part: int | None = None,
) -> dict[str, Any]:
    """Describe a Kronecker block."""
    block: dict[str, Any] = {
        "kind": "kronecker",
        "weight": weight,
        "bias": bias,
        "layout": layout,
        "terms": [{"A": a, "B": b} for a, b in terms],
    }
    return block if part is None else block | {"part": part}


def inputs(weight: str, A: str, *, positions: int | None = None, **others: Any) -> Any:
    """Describe a block of inputs."""
    block = kronecker(weight, **others) | {"kind": "inputs", "terms": [{"A": A}]}
    return block if positions is None else block | {"positions": positions}


def diagonal_block(weight: str, S: str, **others: Any) -> dict[str, Any]:
    """Describe a diagonal block."""
    return kronecker(weight, **others) | {"kind": "diagonal", "terms": [{"S": S}]}


def eigen(weight: str, A: str, B: str, S: str, **others: Any) -> dict[str, Any]:
    """Describe an eigen block."""
    described = kronecker(weight, **others)
    return described | {"kind": "eigen", "terms": [{"A": A, "B": B, "S": S}]}


def gramian(parameter: str, *terms: str) -> dict[str, Any]:
    """Describe a Gramian block."""
    return {
        "kind": "gramian",
        "parameter": parameter,
        "terms": [{"G": name} for name in terms],
    }


def spd(dim: int, seed: int) -> np.ndarray:
    """Make a positive definite matrix of small whole numbers, exact in every type."""
    rows, columns = np.indices((dim, dim))
    root = (3 * rows + 5 * columns * columns + 7 * seed * (rows + 1)) % 5 - 2.0
    return root @ root.T + np.eye(dim)


def dump(value: object) -> bytes:
    """Write JSON for people."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def canonical(value: Any) -> str:
    """Write JSON in the canonical form of RFC 8785."""
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        pairs = [f"{canonical(key)}:{canonical(item)}" for key, item in ordered]
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return json.dumps(value, ensure_ascii=False)
    return ecmascript(float(value))


def ecmascript(value: float) -> str:
    """Write a number as ECMAScript does: the fewest digits that are read as it."""
    sign, figures, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, minus = "".join(map(str, figures)), "-" * sign
    point = len(digits) + int(exponent)  # where the point is, counted from the left
    if value == 0:
        return "0"
    if len(digits) <= point <= 21:
        return minus + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{minus}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    fraction = "." + digits[1:] if digits[1:] else ""
    return f"{minus}{digits[0]}{fraction}e{point - 1:+d}"


def compact(value: object) -> bytes:
    """Write JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def lined(value: object, depth: int = 1) -> bytes:
    """Write JSON with a line for each member of an object, down to a depth."""
    if not depth or not isinstance(value, dict):
        return compact(value)
    members = (compact(n) + b": " + lined(v, depth - 1) for n, v in value.items())
    return b"{\n" + b",\n".join(members) + b"\n}"


def sha256(content: bytes) -> str:
    """Hash bytes."""
    return hashlib.sha256(content).hexdigest()
