"""Broken bytes: refused with a FormatError, or read as the independent reader does."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import reader
import torch
from hypothesis import given, settings, strategies as st
from jsonschema import Draft202012Validator

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.format.json_text import parse_json
from kfac_artifacts.format.manifest import manifest_from_json, to_json
from tests.artifacts import written_out
from tests.format.mutations import containers

SPEC = Path(__file__).parents[2] / "spec"
NAMES = ("merged-1-3", "gramians", "several-terms", "extensions", "columns-with-bias")
MANIFESTS = [(SPEC / "vectors/valid" / n / "kfac.json").read_bytes() for n in NAMES]
TENSORS = SPEC / "vectors/valid/dense-symmetric-float16"
SCHEMA = Draft202012Validator(
    json.loads((SPEC / "schema/kfac.schema.json").read_text())
)
EXTREMES = [None, True, 0, -1, 1, 1.5, 1e308, 2**31, 2**53, "", "x", "\n", "a" * 513]
VALUES = st.sampled_from(
    [*EXTREMES, [], {}, {"must_understand": False}, [1], "layer"]
).map(copy.deepcopy)  # they are changed in place


def agree(data: bytes) -> None:
    """Let the parser, the other reader and the schema judge the same manifest."""
    try:
        value = parse_json(data, "it")
        manifest = manifest_from_json(value)
    except FormatError:
        with pytest.raises(reader.Refused):
            reader.read_manifest(data)
        return
    assert reader.read_manifest(data) == value
    assert SCHEMA.is_valid(value)
    assert to_json(manifest) == known(value)


def known(value: dict[str, Any]) -> dict[str, Any]:
    """Drop what may be ignored; all else must come back as it was."""
    found = copy.deepcopy(value)
    places = [found, found["base_model"]]
    places += [x for source in found["sources"] for x in (source, source["data"])]
    for place in places:
        for key in [k for k, v in place.items() if isinstance(v, dict)]:
            if place[key].get("must_understand") is False and key not in {
                "uncovered",
                "merge_errors",
            }:
                del place[key]
    return found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_manifest_with_bytes_changed_is_judged_alike(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(MANIFESTS))
    agree(mutated(data, content, len(content)))


def mutated(data: st.DataObject, content: bytes, end: int) -> bytes:
    """Replace a few bytes before ``end`` by other bytes, or by bytes from elsewhere."""
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, end - 1))
        gone = data.draw(st.integers(0, 3))
        source = data.draw(st.integers(0, end - 1))
        new = data.draw(st.binary(max_size=3) | st.just(content[source : source + 9]))
        content = content[:start] + new + content[start + gone :]
    return content


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_manifest_with_a_value_changed_is_judged_alike(data: st.DataObject) -> None:
    value = json.loads(data.draw(st.sampled_from(MANIFESTS)))
    for _ in range(data.draw(st.integers(1, 2))):
        change(data, value)
    agree(json.dumps(value).encode())


def change(data: st.DataObject, value: Any) -> None:
    """Set, add, remove or copy one value somewhere in a JSON document."""
    spots = [s for s in containers(value) if s]
    spot = spots[data.draw(st.integers(0, len(spots) - 1))]
    keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
    key = keys[data.draw(st.integers(0, len(keys) - 1))]
    what = data.draw(st.sampled_from(["set", "remove", "copy", "add"]))
    if what == "set":
        spot[key] = data.draw(VALUES)
    elif what == "remove":
        del spot[key]
    elif what == "copy":
        other = spots[data.draw(st.integers(0, len(spots) - 1))]
        spot[key] = copy.deepcopy(other)
    elif isinstance(spot, dict):
        spot[data.draw(st.sampled_from(["x", "layer", "\u200b", ""]))] = data.draw(
            VALUES
        )
    else:
        spot.append(data.draw(VALUES))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_tensor_file_with_its_header_changed_is_judged_alike(
    damaged: Path, data: st.DataObject
) -> None:
    content = (TENSORS / "factors.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    content = mutated(data, content, 8 + length)
    (damaged / "factors.safetensors").write_bytes(content)
    manifest = json.loads((TENSORS / "kfac.json").read_text())
    manifest["files"]["factors.safetensors"]["size"] = len(content)
    (damaged / "kfac.json").write_text(json.dumps(manifest))
    try:
        artifact = load_artifact(damaged, verify=False)
    except FormatError:
        with pytest.raises(reader.Refused):
            reader.read(damaged, hashes=False)
        return
    again = reader.read(damaged, hashes=False)
    for name, factor in artifact.factors.items():
        assert torch.equal(
            torch.from_numpy(written_out(again[name])), factor.to_dense()
        )


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_anything_at_all_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError):
        manifest_from_json(parse_json(data, "it"))


def test_numbers_that_are_no_numbers_cannot_come_in() -> None:
    for text in (b"NaN", b"[1e400]", b'{"a": -Infinity}', b"1" + b"0" * 5000):
        with pytest.raises(FormatError):
            parse_json(text, "it")
    assert math.isfinite(parse_json(b"1e308", "it"))
