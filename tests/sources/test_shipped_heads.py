"""Heads beside the model that task vectors were added to."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from kfac_artifacts.errors import FormatError, SettingsError
from kfac_artifacts.sources import apply, load_network, shipped_heads
from kfac_artifacts.task_vector import (
    ClassifierHead,
    Head,
    LinearHead,
    TaskVector,
    load_head,
    save_head,
)
from tests.commands import bad, good
from tests.models import SavedModel

NAME = "encoder.layer.1.output.dense.weight"
COSINES = ClassifierHead(torch.randn(3, 8), ("dog", "cat", "bird"), 20.0)
LINEAR = LinearHead(torch.randn(2, 8), torch.randn(2), ("yes", "no"))


def vector_of(model: Path, head: Head | None) -> TaskVector:
    network = load_network(str(model), device="cpu")
    change = {NAME: 0.1 * torch.ones(network.shapes[NAME])}
    base = network.base.restrict({NAME})
    return TaskVector(change, base, network.output_map.info, head)


def same(a: Head, b: Head) -> bool:
    pairs = zip(a.tensors().items(), b.tensors().items(), strict=True)
    equal = all(m == n and torch.equal(s, t) for (m, s), (n, t) in pairs)
    return equal and a.classes == b.classes and a.describe() == b.describe()


@pytest.mark.parametrize("head", [COSINES, LINEAR])
def test_a_head_is_read_as_it_was_written(tmp_path: Path, head: Head) -> None:
    save_head(tmp_path / "head", head)
    found, output_map = load_head(tmp_path / "head")
    assert same(found, head)
    assert output_map is None


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("head.json", b"kfac-head", b"kfac-hand"),
        ("head.json", b'"version": 1', b'"version": 2'),
        ("head.json", b'"dim": 8', b'"dim": 9'),
        ("head.json", b'"output_map": null', b'"output_map": null, "more": 1'),
        ("head.safetensors", b"head/bias", b"head/bios"),
    ],
)
def test_a_broken_head_is_refused(
    tmp_path: Path, file: str, old: bytes, new: bytes
) -> None:
    save_head(tmp_path / "head", LINEAR)
    path = tmp_path / "head" / file
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(FormatError):
        load_head(tmp_path / "head")


def test_apply_ships_heads_and_the_model_loads_as_before(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model, out = saved_model("bert"), tmp_path / "out"
    vectors = [vector_of(model, head) for head in (COSINES, None, LINEAR)]
    done = apply(model, vectors, out, names=["a", "b", "a"])
    assert done.heads == ("a", "a-2")
    found = shipped_heads(out)
    assert same(found["a"][0], COSINES)
    assert same(found["a-2"][0], LINEAR)
    assert found["a"][1] == vectors[0].output_map
    state = AutoModel.from_pretrained(out).state_dict()
    before = AutoModel.from_pretrained(model).state_dict()
    torch.testing.assert_close(state[NAME], before[NAME] + 0.3)
    listed = json.loads((out / "kfac_apply.json").read_text())["files"]
    assert "heads/a/head.safetensors" in listed
    apply(model, vectors[1:2], out, replace=True)  # all of it is ours
    assert not (out / "heads").exists()


def test_a_model_that_is_added_to_again_keeps_its_heads(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    apply(saved_model("bert"), [vector_of(saved_model("bert"), COSINES)], first)
    done = apply(first, [vector_of(first, LINEAR)], second)
    assert done.heads == ("task-1", "task-1-2")
    assert not done.left_out
    assert same(shipped_heads(second)["task-1"][0], COSINES)


def test_nothing_of_somebody_else_in_the_folder_is_lost_or_taken(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(saved_model("bert"), model)
    (model / "heads").mkdir()
    (model / "heads/notes.txt").write_text("mine")
    done = apply(model, [vector_of(model, COSINES)], out)
    assert "heads/" in done.left_out
    assert (model / "heads/notes.txt").read_text() == "mine"
    assert sorted(f.name for f in (out / "heads").iterdir()) == ["task-1"]
    for name in ("a/b", ".a", "..", ""):
        with pytest.raises(SettingsError, match="can be a folder"):
            apply(model, [vector_of(model, COSINES)], tmp_path / "no", names=[name])


def test_predictions_of_the_applied_model_are_those_of_the_task_vectors(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model, merged = saved_model("bert"), tmp_path / "merged"
    for name, head in (("one", COSINES), ("two", LINEAR)):
        vector_of(model, head).save(tmp_path / name)
    taus = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "data.csv").write_text("text\nthe dog runs\na white cat\n")
    said = good("apply", model, *taus, "-o", merged)
    assert "heads/: one, two" in said

    def rows(*words: object) -> list[tuple[str, float]]:
        found = json.loads(good("predict", *words, "--json"))
        return [(row["class"], row["probability"]) for row in found["rows"]]

    data = tmp_path / "data.csv"
    for name in ("one", "two"):
        after = rows(merged, data, "--head", name)
        before = rows(model, *taus, data, "--head", name, "--mode", "plain")
        assert [label for label, _ in after] == [label for label, _ in before]
        for (_, p), (_, q) in zip(after, before, strict=True):
            assert p == pytest.approx(q, rel=1e-4)
    message = bad("predict", merged, data, "--head", "three", code=2)
    assert "there are one, two" in message
    mapped = ("--output-map", "cls", "--head", "one")
    assert "is for the output map" in bad("predict", merged, data, *mapped, code=2)
