"""Files of the same weights in another form: written, kept, shown and found."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact, DerivedFile
from kfac_artifacts.errors import MismatchError, SourceError
from tests.artifacts import artifact, card_of
from tests.cli.test_artifacts import texts
from tests.commands import bad, good
from tests.computed import COMPUTE
from tests.models import SavedModel

HOW = "GGUF Q4_K_M"


def file(path: Path) -> tuple[Path, str]:
    """A file, and the sha256 of its bytes."""
    path.write_bytes(path.name.encode() * 1000)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def saved(found: Artifact, path: Path) -> Artifact:
    kfac.save_artifact(found, path)
    return kfac.load_artifact(path)


def names(found: Artifact) -> list[str]:
    return [each.name for each in found.provenance.base.derived]


def test_files_are_written_and_read_again(tmp_path: Path) -> None:
    one, digest = file(tmp_path / "tiny-Q4_K_M.gguf")
    other, _ = file(tmp_path / "tiny-int4.safetensors")
    plain = artifact(1, dtype=torch.float32)
    named = kfac.also_for(kfac.also_for(plain, {one: HOW}), {other: None, one: None})
    found = saved(named, tmp_path / "a").provenance.base
    assert found.derived[0] == DerivedFile(one.name, digest, HOW)
    assert [each.how for each in found.derived] == [HOW, None]
    assert found.parameters == plain.provenance.base.parameters


def test_without_files_nothing_is_written(tmp_path: Path) -> None:
    saved(kfac.also_for(artifact(1, dtype=torch.float32), {}), tmp_path / "a")
    manifest = json.loads((tmp_path / "a/kfac.json").read_text())
    assert "derived" not in manifest["base_model"]


def test_a_task_stays_the_task_that_it_was(tmp_path: Path) -> None:
    gguf, _ = file(tmp_path / "tiny.gguf")
    first = saved(artifact(1, dtype=torch.float32), tmp_path / "a")
    again = saved(kfac.also_for(first, {gguf: HOW}), tmp_path / "b")
    assert again.provenance.sources[0].digest == first.digest
    with pytest.raises(MismatchError, match="twice"):
        kfac.merge([first, again])
    other = saved(artifact(2, dtype=torch.float32), tmp_path / "c")
    total = saved(kfac.merge([other, first]), tmp_path / "d")
    rest = kfac.merge([total], exclude=[again])
    assert [s.digest for s in rest.provenance.sources] == [other.digest]


def test_merging_keeps_the_files_of_all(tmp_path: Path) -> None:
    parts = []
    for number in (1, 2):
        gguf, _ = file(tmp_path / f"{number}.gguf")
        part = kfac.also_for(artifact(number, dtype=torch.float32), {gguf: None})
        parts.append(saved(part, tmp_path / f"{number}"))
    assert names(kfac.merge(parts)) == ["1.gguf", "2.gguf"]
    assert names(kfac.merge(parts[::-1])) == ["2.gguf", "1.gguf"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.gguf cannot be read"):
        kfac.also_for(artifact(1), {tmp_path / "none.gguf": None})


def test_the_command_writes_it_and_shows_it(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    gguf, digest = file(tmp_path / "bert-Q8_0.gguf")
    command = (*COMPUTE, saved_model("bert"), texts(tmp_path / "texts.csv"))
    good(*command, "-o", tmp_path / "a", "--also-for", gguf)
    assert f"also for {gguf.name}: sha256 {digest}" in good("inspect", tmp_path / "a")
    details = json.loads(good("inspect", tmp_path / "a", "--json"))
    assert details["also_for"] == [{"name": gguf.name, "sha256": digest, "how": None}]
    small = tmp_path / "small"
    good("compress", tmp_path / "a", "-o", small, "--recipe", "int8")
    assert names(kfac.load_artifact(small)) == [gguf.name]
    assert gguf.name in card_of(kfac.load_artifact(small), 1, "org/name")


def test_the_command_refuses_a_file_that_is_not_there(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    data, missing = texts(tmp_path / "texts.csv"), tmp_path / "none.gguf"
    command = (*COMPUTE, saved_model("bert"), data, "-o", tmp_path / "a")
    assert missing.name in bad(*command, "--also-for", missing, code=2)
