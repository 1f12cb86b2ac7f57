"""Several owners whose data have one name: told apart, and warned of their own."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kfac_artifacts.artifact import NamedConfig, preprocessing_differences, task_names
from kfac_artifacts.canonical import short
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge, weights
from kfac_artifacts.train import train
from tests.artifacts import artifact, renamed
from tests.commands import kfac
from tests.computed import COMPUTE
from tests.models import WORDS, SavedModel
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
)

OWNERS = ("acme", "bolt", "cord")


def done(*words: object) -> Result:
    result = kfac(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory, saved_model: SavedModel) -> Path:
    """Three owners with a ``train.csv`` each, and the artifacts of two of them."""
    root = tmp_path_factory.mktemp("owners")
    for number, name in enumerate(OWNERS):
        rows = [f"{WORDS[i]} {WORDS[i + number]},{i % 2}" for i in range(12)]
        (root / name).mkdir()
        table = root / name / "train.csv"
        table.write_text("\n".join(["text,label", *rows]) + "\n")
        options = ("--max-length", 8, "--modules", "encoder.layer.1.*")
        done(*COMPUTE, saved_model("bert"), table, "-o", root / f"k-{name}", *options)
    parts = [root / f"k-{name}" for name in OWNERS[:2]]
    done("merge", *parts, "-o", root / "total")
    return root


def test_owners_are_told_apart_by_their_folders(owners: Path) -> None:
    parts = [owners / f"k-{name}" for name in OWNERS[:2]]
    said = done("merge", *parts, "-o", owners / "again")
    for name in ("acme/train.csv", "bolt/train.csv"):
        assert f"{name} (12 of 12 examples)" in said.stderr
        assert name in said.stdout
    assert str(owners.parent) not in (owners / "total" / "kfac.json").read_text()
    words = ("merge", owners / "total", "--exclude", owners / "k-cord", "-o", "none")
    refused = kfac(*words)
    assert refused.exit_code == 1
    wanted = "cord/train.csv cannot be excluded: it is not among the merged tasks acme/"
    assert wanted in refused.stderr


def test_tasks_of_one_name_are_shown_with_digests(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        same = renamed(artifact(number), "train.csv")
        save_artifact(same, tmp_path / f"{number}")
    one, two, three = (load_artifact(tmp_path / f"{number}") for number in (1, 2, 3))
    total = merge([one, two])
    names = task_names(total.provenance.sources)
    assert names == [f"train.csv (kfac-{short(a.digest)})" for a in (one, two)]
    assert [name[2:] for name in weights(total.provenance)] == names
    with pytest.raises(MismatchError) as caught:
        merge([total], exclude=[three])
    for part in (one, two, three):
        assert f"train.csv (kfac-{short(part.digest)})" in str(caught.value)
    save_artifact(total, tmp_path / "total")
    said = done("inspect", tmp_path / "total").stdout
    assert all(name in said for name in names)
    in_memory = merge([renamed(artifact(1), "a"), renamed(artifact(2), "a")])
    assert task_names(in_memory.provenance.sources) == [
        f"a (data {number:064x}"[:20] + ")" for number in (1, 2)
    ]


def trained(owners: Path, saved_model: SavedModel, *options: object) -> Result:
    table, output = owners / "acme" / "train.csv", owners / "tau"
    words = ("--head", "prototypes", "--steps", 1, "--json", "--force")
    start = ("train", saved_model("bert"), table, "-o", output, *words)
    return done(*start, "--curvature", owners / "total", *options)


def of_data(said: str) -> list[str]:
    """The warnings but that of a training too short to learn anything."""
    warnings = json.loads(said)["warnings"]
    return [w for w in warnings if "hardly anything was learnt" not in w]


def test_a_forgotten_exclude_own_is_told(owners: Path, saved_model: SavedModel) -> None:
    same = ("--max-length", 8)
    forgotten = trained(owners, saved_model, *same)
    (warning,) = of_data(forgotten.stdout)
    assert warning.startswith("acme/train.csv, a task of the curvature, was computed")
    assert "--exclude-own" in warning
    assert f"Warning: {warning}" in forgotten.stderr
    own = ("--exclude-own", owners / "k-acme")
    assert of_data(trained(owners, saved_model, *same, *own).stdout) == []
    off = trained(owners, saved_model, *same, "--lambda", 0)
    assert of_data(off.stdout) == []


def test_another_length_of_texts_is_told(owners: Path, saved_model: SavedModel) -> None:
    own = ("--exclude-own", owners / "k-acme")
    said = trained(owners, saved_model, "--max-length", 5, *own)
    (warning,) = of_data(said.stdout)
    assert "the curvature of bolt/train.csv was computed from other inputs" in warning
    assert "max_length 8, not 5" in warning
    table = owners / "acme" / "train.csv"
    words = ("evaluate", saved_model("bert"), f"{owners / 'tau'}={table}")
    assert "tau was trained on other inputs" in done(*words, "--max-length", 7).stderr
    assert "Warning" not in done(*words, "--max-length", 5).stderr


def test_training_in_python_warns_as_well(caplog: pytest.LogCaptureFixture) -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(1))
    task = tiny_task(network, 1, network.dtype)
    settings = replace(SETTINGS, steps=1)
    with caplog.at_level(logging.WARNING):
        train(network, task, settings, curvature=curvature)
    assert (
        "points-1, a task of the curvature, was computed from the data" in caplog.text
    )
    caplog.clear()
    (source,) = curvature.provenance.sources
    other = replace(source, data=replace(source.data, fingerprint="0" * 64))
    changed = replace(
        curvature, provenance=replace(curvature.provenance, sources=(other,))
    )
    with caplog.at_level(logging.WARNING):
        train(network, task, settings, curvature=changed)
    assert "has the name and the size of the data" in caplog.text
    caplog.clear()
    others = tiny_curvature(network, tiny_points(2))
    with caplog.at_level(logging.WARNING):
        train(network, task, settings, curvature=others)
    said = [record.getMessage() for record in caplog.records]
    assert all("hardly anything was learnt" in each for each in said)  # of one step


def test_merging_tasks_of_other_inputs_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = []
    for number, length in ((1, 512), (2, 24)):
        part = artifact(number)
        (source,) = part.provenance.sources
        how = NamedConfig("text", {"columns": ["text"], "max_length": length})
        source = replace(source, data=replace(source.data, preprocessing=how))
        parts.append(
            replace(part, provenance=replace(part.provenance, sources=(source,)))
        )
    with caplog.at_level(logging.WARNING):
        merge(parts)
    assert "data2 was computed from other inputs than data1" in caplog.text
    assert "max_length 24, not 512" in caplog.text


@pytest.mark.parametrize(
    ("theirs", "ours", "differences"),
    [
        (("text", {"columns": ["a"]}), ("text", {"columns": ["b"]}), []),
        (
            ("text", {"columns": ["a", "b"]}),
            ("text", {"columns": ["b"]}),
            ["texts per example 2, not 1"],
        ),
        (("text", {"prompt": "q: "}), ("text", {}), ["prompt 'q: ', not ''"]),
        (("text", {}), ("image", {"column": "image"}), ["text, not image"]),
        (
            ("image", {"column": "a", "size": {"height": 8}}),
            ("image", {"column": "b", "size": {"height": 9}}),
            ["size {'height': 8}, not {'height': 9}"],
        ),
        (("tensors", {}), ("text", {"max_length": 3}), []),
    ],
)
def test_what_differs_in_the_inputs_is_said(
    theirs: tuple[Any, ...], ours: tuple[Any, ...], differences: list[Any]
) -> None:
    assert (
        preprocessing_differences(NamedConfig(*theirs), NamedConfig(*ours))
        == differences
    )
