"""Artifacts with something changed, and what becomes of them in every use."""

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, save_compressed
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import load, save_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.verify import verify
from tests.spec import independent_reader

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
NAMES = sorted(path.name for path in VALID.iterdir())
PATTERNS = [float("inf"), float("-inf"), float("nan"), 3.4e38, -3.4e38, 3e19, -3e19]
PATTERNS += [1e-45, -1e-45, 1e-30, -0.0, 0.0, 1.0, -1.0, 1e4, -1e4, 1e10, 65504.0]
CODES = [-128, -127, -1, 0, 1, 127]
VALUES: list[Any] = [None, True, 0, -1, 1, 2, 1.5, 1e308, 2**31, 2**53, "", "x", [], {}]
VALUES += ["\x1b[31m", "\u202e", "a" * 513, {"must_understand": False}, [[]], "int8"]
RECIPES = ["int8", "bfloat16", "low-rank-1+int8", "svd-1", "block-2", "prune-30%"]
RECIPES += ["diagonal", "low-rank-trace-90%", "block-2-correlated+float16"]
SLACK = 2e-2
"""How negative a penalty may be, as a share of the product of all norms."""


def mutant(seed: int, path: Path) -> str:
    """Write an artifact with one to three changes; returns what was changed."""
    choose = random.Random(seed)
    name = choose.choice(NAMES)
    shutil.copytree(VALID / name, path)
    (path / "expected.json").unlink()
    kinds = [numbers, numbers, numbers, scaled, manifest, manifest, header, raw, files]
    told = [
        kind(choose, path) if (path / "kfac.json").is_file() else "nothing"
        for kind in choose.choices(kinds, k=choose.choice(TIMES))
    ]
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
    places = range(count)
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


def judged(path: Path, seed: int) -> str:
    """Put an artifact to every use.

    Returns:
        ``refused`` if it may not be used at all, ``allowed`` if only as indefinite
        curvature, ``too large`` if only to look at, ``sound`` otherwise.
    """
    refused = opened = None
    try:
        opened = load(path)
        for name in opened.factors:
            opened.factors[name]
    except KfacError as error:
        refused = error
    if opened is None or refused is not None:
        assert len(str(refused)) > 10
        assert any(not finding.good for finding in verify(path))
        return "refused"
    artifact = opened
    again = independent_reader.read(path)
    for name, factor in artifact.factors.items():
        close = np.allclose(factor.to_dense().numpy(), again[name], rtol=1e-5)
        assert close, f"{name} is read otherwise"
    good = all(finding.good for finding in verify(path))
    used_elsewhere(artifact, path, seed, good=good)
    return penalised(artifact, good=good)


def penalised(artifact: Artifact, *, good: bool) -> str:
    """Evaluate penalty, gradient and operator; nothing may be infinite."""
    try:
        penalty = KfacPenalty(artifact)
    except KfacError as error:
        if "indefinite" not in str(error):
            return "too large"
        sums = any(len(b.factors) > 2 for b in artifact.blocks.values())
        assert sums or not good, "verify accepts what training refuses"
        return "allowed"
    assert good, "training accepts what verify refuses"
    generator = torch.Generator().manual_seed(0)
    for size in (1.0, 1e-3, 1e3):
        tau = {
            name: (size * torch.randn(shape, generator=generator)).requires_grad_()
            for name, shape in artifact.parameters.items()
        }
        value = penalty(tau)
        value.backward()
        assert value.isfinite()
        bound = sum(
            float(tau[p].detach().square().sum()) for p in penalty.parameters
        ) * sum(
            np.prod([float(penalty.factors[f].to_dense().double().norm()) for f in b])
            for b in (block.factors[:2] for block in artifact.blocks.values())
        )
        assert float(value.detach()) >= -SLACK * bound, "drift is rewarded"
        assert all(t.grad.isfinite().all() for t in tau.values() if t.grad is not None)
    operator = CurvatureOperator(artifact, damping=1e-3)
    assert operator.matvec(torch.ones(operator.shape[1])).isfinite().all()
    return "sound"


def used_elsewhere(artifact: Artifact, path: Path, seed: int, *, good: bool) -> None:
    """Merge with a good one, take it out again, and compress: right or refused."""
    partner = path.with_name(path.name + "-partner")
    shutil.copytree(path, partner)
    file = partner / "kfac.json"
    value = json.loads(file.read_text())
    for i, source in enumerate(value["sources"]):
        source["data"]["fingerprint"] = f"{i:064x}"
        source["data"]["id"] = f"partner {i}"
    file.write_text(json.dumps(value))

    def merged() -> Artifact:
        return merge([artifact, load(partner)])

    def without() -> Artifact:
        save_artifact(merged(), path.with_name(path.name + "-total"))
        total = load(path.with_name(path.name + "-total"))
        return merge([total], exclude=[load(partner)])

    def compressed() -> Artifact:
        target = path.with_name(path.name + "-small")
        recipe = Recipe.parse(RECIPES[seed % len(RECIPES)])
        save_compressed(artifact, target, recipe)
        return load(target)

    for number, make in enumerate((merged, without, compressed)):
        derived(make, path.with_name(f"{path.name}-{number}"), good=good)


def derived(make: Callable[[], Artifact], place: Path, *, good: bool) -> None:
    """What is made of an artifact can be saved and is finite, or is refused."""
    try:
        made = make()
        save_artifact(made, place)
        saved = load(place)
        factors = {name: saved.factors[name] for name in saved.factors}
    except KfacError:
        return
    assert all(f.to_dense().isfinite().all() for f in factors.values())
    if good:
        bad = [finding for finding in verify(place) if not finding.good]
        assert not bad, f"what was made of a good one is not good: {bad}"
