"""Headers of safetensors files, read with distrust and without any tensor library."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format.json_text import parse_json
from kfac_artifacts.format.manifest import MAX_AXES
from kfac_artifacts.format.storage.base import TensorInfo
from kfac_artifacts.json_object import JsonObject

MAX_HEADER_BYTES = 64 * 2**20
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
}
"""What torch calls a number type, by what the format calls it."""
NAMES = {name: short for short, name in TYPES.items()}
_Placed: TypeAlias = tuple[TensorInfo, tuple[int, int]]
"""A tensor, and where its bytes begin and end."""


def check_header(path: Path, infos: Mapping[str, TensorInfo]) -> None:
    """Check a file's header against what the manifest announces; reads no tensor.

    Args:
        path: A safetensors file.
        infos: The tensors that must be in it, and no others.

    Raises:
        FormatError: If the header is malformed or says anything else, or the file is
            not as long as it says.
    """
    found, length = _read_header(path)
    missing, extra = sorted(infos.keys() - found), sorted(found.keys() - infos.keys())
    if missing or extra:
        raise FormatError(
            f"{path} does not hold what the manifest says: missing {missing[:3]}, "
            f"unexpected {extra[:3]}"
        )
    for name, info in infos.items():
        if found[name][0] != info:
            raise FormatError(f"{path}: {name} is {found[name][0]}, expected {info}")
    _check_places(path, found, length)


def _read_header(path: Path) -> tuple[dict[str, _Placed], int]:
    """Read a header strictly: the library lets duplicates and unknown fields pass."""
    where, size = f"the header of {path}", path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise FormatError(f"{path} has an impossible header of {length} bytes")
        text = file.read(length)
    header = parse_json(text, where)
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise FormatError(f"{where} must be an object")
    if not text.rstrip(b" ").endswith(b"}"):
        raise FormatError(f"{where} must be padded with spaces, and nothing else")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or len(metadata) > 1:
        raise FormatError(f"{where} must have one key in __metadata__ at most")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{where} must have nothing but strings in __metadata__")
    found = {name: _tensor(value, f"{path}: {name}") for name, value in header.items()}
    return found, size - 8 - length


def _tensor(value: object, where: str) -> _Placed:
    fields = JsonObject(value, where)
    dtype, shape = fields.take("dtype", str), fields.list_of("shape", _whole)
    offsets = fields.list_of("data_offsets", _whole)
    fields.finish()
    fields.require(len(shape) <= MAX_AXES, f"shape has more than {MAX_AXES} axes")
    fields.require(dtype in TYPES, f"dtype {dtype!r} is not one of {[*TYPES]}")
    fields.require(len(offsets) == 2, "data_offsets must be two numbers")
    return TensorInfo(TYPES[dtype], shape), (offsets[0], offsets[1])


def _whole(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise FormatError(f"{where} must be a whole number from 0 to 2**63 - 1")


def _check_places(path: Path, found: Mapping[str, _Placed], length: int) -> None:
    """Check that the tensors fill the file: no hole, no overlap, nothing behind."""
    at = 0
    for name, (info, (begin, end)) in sorted(found.items(), key=lambda x: x[1][1]):
        if begin != at or end != at + info.nbytes:
            raise FormatError(
                f"{path} is not a valid safetensors file: {name} has bytes {begin} to "
                f"{end}, not {at} to {at + info.nbytes}"
            )
        at = end
    if at != length:
        raise FormatError(
            f"{path} is not a valid safetensors file: its header tells of {at} bytes, "
            f"and {length} follow it"
        )
