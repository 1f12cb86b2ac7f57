"""Artifacts with something changed: numbers, manifests, headers, files."""

import copy
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
NAMES = sorted(path.name for path in VALID.iterdir())
PATTERNS = [float("inf"), float("-inf"), float("nan"), 3.4e38, -3.4e38, 3e19, -3e19]
PATTERNS += [1e-45, -1e-45, 1e-30, -0.0, 0.0, 1.0, -1.0, 1e4, -1e4, 1e10, 65504.0]
CODES = [-128, -127, -1, 0, 1, 127]
VALUES: list[Any] = [None, True, 0, -1, 1, 2, 1.5, 1e308, 2**31, 2**53, "", "x", [], {}]
VALUES += ["\x1b[31m", "\u202e", "a" * 513, {"must_understand": False}, [[]], "int8"]


def mutant(seed: int, path: Path) -> str:
    """Write an artifact with one to three changes; returns what was changed."""
    choose = random.Random(seed)
    name = choose.choice(NAMES)
    shutil.copytree(VALID / name, path)
    (path / "expected.json").unlink()
    kinds = [numbers, numbers, numbers, scaled, manifest, manifest, header, raw, files]
    told = []
    for kind in choose.choices(kinds, k=choose.choice(TIMES)):
        try:
            told.append(kind(choose, path))
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            told.append("nothing")  # what was changed before is in the way
    if choose.random() < 0.95:
        seal(path)
    return f"{seed}: {name}: {'; '.join(told)}"


TIMES = [1, 1, 1, 2, 3]


def shards(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def tensors(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a file begin, and its header; nothing if it is broken."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        found = json.loads(content[8:start])
        found.pop("__metadata__", None)
        ends = [info["data_offsets"][1] for info in found.values() if info["dtype"]]
        begins = [info["data_offsets"][0] for info in found.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return start, {}
    whole = all(
        isinstance(end, int) and start + end <= len(content) for end in ends + begins
    )
    return start, found if whole else {}


def encoded(value: float, dtype: str, choose: random.Random) -> bytes:
    with np.errstate(over="ignore", invalid="ignore"):
        match dtype:
            case "F32":
                return np.float32(value).tobytes()
            case "F16":
                return np.float16(value).tobytes()
            case "BF16":
                return np.float32(value).tobytes()[2:]
            case "I32":
                return np.int32(choose.choice([-1, 0, 1, 2, 2**31 - 1])).tobytes()
            case "I8":
                return np.int8(choose.choice(CODES)).tobytes()
            case _:
                return bytes([choose.randrange(256)])


def numbers(choose: random.Random, path: Path) -> str:
    """Put a special number into some or all places of a tensor."""
    file = choose.choice(shards(path) or [path / "kfac.json"])
    start, found = tensors(file)
    found = {
        k: i for k, i in found.items() if i["data_offsets"][0] < i["data_offsets"][1]
    }
    if not found:
        return "nothing"
    key = choose.choice(sorted(found))
    begin, end = found[key]["data_offsets"]
    value = choose.choice(PATTERNS)
    item = encoded(value, found[key]["dtype"], choose)
    count = (end - begin) // len(item)
    places = [*range(count)]
    if choose.random() < 0.7:
        places = sorted({choose.randrange(count) for _ in range(choose.choice([1, 2]))})
    content = bytearray(file.read_bytes())
    for i in places:
        at = start + begin + i * len(item)
        content[at : at + len(item)] = item
    file.write_bytes(content)
    return f"{key}{list(places)[:3]} = {value}"


def scaled(choose: random.Random, path: Path) -> str:
    """Multiply a tensor of floats: everything else about it stays right."""
    file = choose.choice(shards(path) or [path / "kfac.json"])
    start, found = tensors(file)
    found = {k: i for k, i in found.items() if i["dtype"] == "F32"}
    if not found:
        return "nothing"
    key = choose.choice(sorted(found))
    begin, end = found[key]["data_offsets"]
    content = bytearray(file.read_bytes())
    factor = choose.choice([1e38, 1e30, 1e19, 1e-30, 1e-44, -1.0, 0.0])
    with np.errstate(all="ignore"):
        values = np.frombuffer(content[start + begin : start + end], "<f4") * factor
        content[start + begin : start + end] = values.astype("<f4").tobytes()
    file.write_bytes(content)
    return f"{key} * {factor}"


def manifest(choose: random.Random, path: Path) -> str:
    """Set, remove, copy or double a value of the manifest or the index."""
    file = choose.choice(sorted(path.glob("*.json")))
    try:
        value = json.loads(file.read_text())
    except ValueError:
        return "nothing"
    spots = [spot for spot in containers(value) if spot]
    if not spots:
        return "nothing"
    spot = choose.choice(spots)
    key = choose.choice(
        list(spot) if isinstance(spot, dict) else list(range(len(spot)))
    )
    what = choose.choice(["set", "set", "remove", "copy", "twice"])
    if what == "set":
        spot[key] = copy.deepcopy(choose.choice(VALUES))
    elif what == "remove":
        del spot[key]
    elif what == "copy":
        spot[key] = copy.deepcopy(choose.choice(spots))
    text = json.dumps(value)
    if what == "twice":
        text = text.replace("{", '{"x": 1, "x": 2, ', 1)
    file.write_text(text)
    return f"{file.name}: {what} {key!r}"


def containers(value: Any) -> list[Any]:
    """Every object and array of a JSON document."""
    if not isinstance(value, dict | list):
        return []
    children = value.values() if isinstance(value, dict) else value
    return [value, *(found for child in children for found in containers(child))]


def header(choose: random.Random, path: Path) -> str:
    """Change bytes of a header."""
    file = choose.choice(shards(path) or [path / "kfac.json"])
    content = bytearray(file.read_bytes())
    start, _ = tensors(file)
    if not content:
        return "nothing"
    at = choose.randrange(min(start, len(content)))
    content[at] = choose.choice([*b'0123456789{}[]",:I8F', choose.randrange(256)])
    file.write_bytes(content)
    return f"{file.name}: byte {at}"


def raw(choose: random.Random, path: Path) -> str:
    """Change a few bytes of a tensor file."""
    file = choose.choice(shards(path) or [path / "kfac.json"])
    content = bytearray(file.read_bytes())
    start, _ = tensors(file)
    if len(content) <= start:
        return "nothing"
    for _ in range(choose.choice([1, 2, 8])):
        content[choose.randrange(start, len(content))] = choose.randrange(256)
    file.write_bytes(content)
    return f"{file.name}: bytes"


def files(choose: random.Random, path: Path) -> str:
    """Cut, lengthen, remove or exchange files."""
    found = sorted(path.iterdir())
    file, what = choose.choice(found), choose.choice(["cut", "more", "less", "swap"])
    content = file.read_bytes()
    if what == "cut":
        file.write_bytes(content[: choose.randrange(len(content) + 1)])
    elif what == "more":
        file.write_bytes(content + bytes(choose.randrange(1, 9)))
    elif what == "less":
        file.unlink()
    else:
        other = choose.choice([f for f in (VALID / choose.choice(NAMES)).iterdir()])
        file.write_bytes(other.read_bytes())
    return f"{file.name}: {what}"


def seal(path: Path) -> None:
    """Write sizes and hashes anew, so that only the change itself is wrong."""
    file = path / "kfac.json"
    try:
        value = json.loads(file.read_text())
        for name, info in value["files"].items():
            content = (path / name).read_bytes()
            info["size"] = len(content)
            info["sha256"] = hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    file.write_text(json.dumps(value))
