"""The vectors of task vectors against the library, the schema and the reader."""

import json
import subprocess
import sys
import tempfile
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
import reader_json
import reader_manifest
import reader_values
import task_vector_reader
import torch
from jsonschema import Draft202012Validator

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.network import Network, OutputMap
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.task_vector.manifest import manifest_from_json, read_manifest
from tests.each import for_each
from tests.spec_refusals import unnoticed

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors/task_vectors"
INDEX = json.loads((VECTORS / "index.json").read_text())
VALID: list[str] = INDEX["valid"]
INVALID: dict[str, dict[str, Any]] = INDEX["invalid"]
SCHEMA = Draft202012Validator(
    json.loads((SPEC / "schema/task_vector.schema.json").read_text())
)


def of_levels(*levels: str) -> list[str]:
    return [name for name, entry in INVALID.items() if entry["level"] in levels]


def text(vector: Path) -> Any:
    return json.loads((vector / "task_vector.json").read_text())


def expected(name: str) -> Any:
    return json.loads((VECTORS / "valid" / name / "expected.json").read_text())


def loaded(name: str) -> TaskVector:
    return TaskVector.load(VECTORS / "valid" / name)


@for_each(VALID)
def test_the_library_reads_a_valid_vector_exactly(name: str) -> None:
    found, wanted = loaded(name), expected(name)
    tensors = {f"tau/{n}": tensor for n, tensor in found.tensors.items()}
    if found.head is not None:
        tensors |= {f"head/{n}": t for n, t in found.head.tensors().items()}
        assert (
            list(found.head.classes)
            == text(VECTORS / "valid" / name)["head"]["classes"]
        )
        logits = found.head.logits(torch.tensor([wanted["output"]]))[0]
        assert logits.tolist() == pytest.approx(wanted["logits"], rel=1e-6)
    assert tensors.keys() == wanted["tensors"].keys()
    for key, values in wanted["tensors"].items():
        assert torch.equal(tensors[key], torch.tensor(values, dtype=torch.float32))


@for_each(VALID)
def test_the_reader_reads_a_valid_vector_exactly(name: str) -> None:
    found, wanted = task_vector_reader.read(VECTORS / "valid" / name), expected(name)
    assert found.keys() == wanted["tensors"].keys()
    for key, values in wanted["tensors"].items():
        np.testing.assert_array_equal(found[key], np.array(values, np.float32))


@for_each(VALID)
def test_what_the_library_writes_of_a_valid_vector_is_read_by_the_reader(
    name: str,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        loaded(name).save(Path(place) / "again")
        found = task_vector_reader.read(Path(place) / "again")
        SCHEMA.validate(text(Path(place) / "again"))
    for key, values in expected(name)["tensors"].items():
        np.testing.assert_array_equal(found[key], np.array(values, np.float32))


@for_each([*VALID, *of_levels("schema", "manifest", "files", "hash", "values")])
def test_schema_and_parser_refuse_what_the_index_says(name: str) -> None:
    level = INVALID.get(name, {}).get("level")
    vector = VECTORS / ("valid" if level is None else "invalid") / name
    assert SCHEMA.is_valid(text(vector)) == (level != "schema")
    if level in {"schema", "manifest"}:
        with pytest.raises(FormatError):
            manifest_from_json(text(vector))
    else:
        manifest_from_json(text(vector))


@for_each(of_levels("json"))
def test_a_broken_text_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        read_manifest(VECTORS / "invalid" / name)


@for_each(INVALID)
def test_the_library_refuses_every_invalid_vector(name: str) -> None:
    with pytest.raises(FormatError):
        TaskVector.load(VECTORS / "invalid" / name)


@for_each(INVALID)
def test_the_reader_refuses_every_invalid_vector_at_its_level(name: str) -> None:
    vector, level = VECTORS / "invalid" / name, INVALID[name]["level"]
    with pytest.raises(task_vector_reader.Refused):
        task_vector_reader.read(vector)
    data = (vector / "task_vector.json").read_bytes()
    if level in {"json", "schema", "manifest"}:
        with pytest.raises(task_vector_reader.Refused):
            task_vector_reader.read_manifest(data)
    else:
        task_vector_reader.read_manifest(data)
    if level == "hash":
        task_vector_reader.read(vector, hashes=False)


IMPLIED = {
    "'too much JSON'": "it takes 64 MiB to show",
    "'no manifest, or no regular file'": "no vector can hold a pipe",
}
"""Refusals that no vector can show alone, and why."""


def test_no_refusal_of_the_reader_could_be_left_out_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = unnoticed(
        INVALID,
        lambda name: task_vector_reader.read(VECTORS / "invalid" / name),
        (task_vector_reader, reader, reader_json, reader_manifest, reader_values),
        (task_vector_reader,),
        monkeypatch,
    )
    assert found == IMPLIED.keys()


@for_each(INDEX["sums"])
def test_sums_are_what_the_index_says(name: str) -> None:
    case = INDEX["sums"][name]
    parts = [loaded(part) for part in case["of"]]
    if "refused" in case:
        with pytest.raises(MismatchError):
            reduce(add, parts)
        return
    total = reduce(add, parts)
    assert total.head is None
    assert (total.settings, total.metrics) == ({}, {})
    assert {f"tau/{n}" for n in total.tensors} == case["expected"].keys()
    for key, values in case["expected"].items():
        found = total.tensors[key.removeprefix("tau/")]
        np.testing.assert_allclose(found, values, rtol=1e-6)


@for_each(INDEX["applications"])
def test_applying_is_what_the_index_says(name: str) -> None:
    case = INDEX["applications"][name]
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(3, 2))
    model.load_state_dict({n: torch.tensor(v) for n, v in case["model"].items()})
    output = OutputMap(NamedConfig("all"), lambda m, batch: m(**batch))
    network = Network(model, output, "example/tiny")
    change = case["alpha"] * loaded(case["vector"])
    if "refused" in case:
        with pytest.raises(MismatchError):
            change.apply(network)
        return
    change.apply(network)
    for key, values in case["expected"].items():
        np.testing.assert_allclose(model.state_dict()[key], values, rtol=1e-6)


def test_the_reader_is_a_program() -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", SPEC / "task_vector_reader.py", VECTORS / name]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good, bad = run("valid/with-head"), run("invalid/hash")
    assert (good.returncode, bad.returncode) == (0, 1)
    names = [line.partition(":")[0] for line in good.stdout.splitlines()]
    assert names == list(expected("with-head")["tensors"])
    assert "hash of the file" in bad.stderr


def test_the_schema_is_a_schema_and_shares_what_artifacts_have() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)
    ours = SCHEMA.schema["$defs"]
    theirs = json.loads((SPEC / "schema/kfac.schema.json").read_text())["$defs"]
    shared = {name: theirs[name] for name in ours.keys() & theirs.keys()}
    assert shared == {n: ours[n] for n in ours if n not in {"head", "layer"}}


def test_every_vector_is_in_the_index_and_every_entry_is_there() -> None:
    for kind in ("valid", "invalid"):
        found = {path.name for path in (VECTORS / kind).iterdir()}
        assert found == set(INDEX[kind])
