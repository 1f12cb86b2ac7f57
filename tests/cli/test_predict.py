"""``kfac predict`` against outputs and cosines written out, and what it writes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.sources import load_network
from kfac_artifacts.task_vector import ClassifierHead, TaskVector
from tests.commands import bad, good, kfac as command
from tests.models import SavedModel

TEXTS = ["the dog runs", "a cat sits", "a white bird", "fish is good", "it swims"]
CLASSES = ("dog", "cat", "bird")
NAMES = ("encoder.layer.1.output.dense.weight", "encoder.layer.0.output.dense.bias")


@pytest.fixture
def place(tmp_path: Path, saved_model: SavedModel) -> Path:
    """Two task vectors with heads and one without, and rows around a blank line."""
    network = load_network(str(saved_model("bert")), device="cpu")
    info = network.output_map.info
    for i, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(i)
        change = torch.randn(network.shapes[name], generator=generator)
        rows = torch.randn(3, 8, generator=generator)
        head = ClassifierHead(rows, tuple(f"{c}{i}" for c in CLASSES), 5.0)
        base = network.base.restrict({name})
        TaskVector({name: change}, base, info, head).save(tmp_path / f"tau-{i}")
        TaskVector({name: change}, base, info).save(tmp_path / f"bare-{i}")
    lines = ["id,text,label"]
    lines += [f"x{i},{text},dog0" for i, text in enumerate(TEXTS)]
    (tmp_path / "data.csv").write_text("\n".join([*lines[:3], "", *lines[3:], ""]))
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def brute_force(saved_model: SavedModel, place: Path, alphas: Any, mode: str) -> Any:
    """Outputs of a moved copy, or by finite differences, under the head of tau-0."""
    network = load_network(str(saved_model("bert")), device="cpu", dtype="float64")
    examples = kfac.load_examples(place / "data.csv", network)
    batch = examples.batch(range(len(TEXTS)))
    taus = [TaskVector.load(place / f"tau-{i}") for i in range(2)]
    state = {n: p.detach() for n, p in network.parameters().items()}

    def at(step: float) -> Any:
        moved = dict(state)
        for alpha, tau in zip(alphas, taus, strict=True):
            for name, change in tau.tensors.items():
                moved[name] = moved[name] + step * alpha * change.double()
        return network.functional_call(moved, batch).detach()

    output = at(1.0)
    if mode == "linear":
        output = at(0.0) + (at(1e-5) - at(-1e-5)) / 2e-5
    head = taus[0].head
    assert isinstance(head, ClassifierHead)
    rows = torch.nn.functional.normalize(head.embeddings.double(), dim=1)
    cosines = torch.nn.functional.normalize(output, dim=1) @ rows.T
    return (5.0 * cosines).softmax(1)


@pytest.mark.parametrize("mode", ["linear", "plain"])
@pytest.mark.parametrize("alphas", [(1.0, 1.0), (0.5, -2.0)])
def test_every_row_gets_its_class_and_probability(
    place: Path, saved_model: SavedModel, mode: str, alphas: Any
) -> None:
    weights = [word for alpha in alphas for word in ("--alpha", alpha)]
    start = ("predict", saved_model("bert"), place / "tau-0", place / "tau-1")
    options = ("--mode", mode, "--copy", "id", "--batch-size", 2, "--device", "cpu")
    result = command(
        *start, place / "data.csv", "-o", place / "out.csv", *weights, *options
    )
    assert result.exit_code == 0, result.output
    assert "1 blank line skipped" in result.stderr
    expected = brute_force(saved_model, place, alphas, mode)
    found = rows_of(place / "out.csv")
    assert [list(row) for row in found] == [["line", "id", "class", "probability"]] * 5
    assert [row["line"] for row in found] == ["2", "3", "5", "6", "7"]
    assert [row["id"] for row in found] == [f"x{i}" for i in range(5)]
    for row, probabilities in zip(found, expected, strict=True):
        assert row["class"] == f"{CLASSES[int(probabilities.argmax())]}0"
        most = float(probabilities.max())
        assert float(row["probability"]) == pytest.approx(most, abs=1e-4)


def test_what_is_printed_and_what_is_written_are_the_same(
    place: Path, saved_model: SavedModel
) -> None:
    words = ("predict", saved_model("bert"), place / "tau-0", place / "data.csv")
    printed = good(*words)
    good(*words, "-o", place / "out.csv")
    assert printed == (place / "out.csv").read_text()
    good(*words, "-o", place / "out.jsonl", "--json")
    lines = [json.loads(x) for x in (place / "out.jsonl").read_text().splitlines()]
    found = json.loads(good(*words, "--json"))
    assert found["rows"] == lines
    assert found["mode"] == "linear"
    assert len(lines) == len(TEXTS)
    for row, line in zip(rows_of(place / "out.csv"), lines, strict=True):
        assert row == {name: str(value) for name, value in line.items()}


def test_the_head_is_that_of_the_first_that_has_one_or_the_one_that_is_named(
    place: Path, saved_model: SavedModel
) -> None:
    def head(*words: Any) -> str:
        start = ("predict", saved_model("bert"))
        found = json.loads(good(*start, *words, "--json"))
        assert all(row["class"][-1] == found["head"][-1] for row in found["rows"])
        return Path(found["head"]).name

    both = (place / "tau-0", place / "tau-1", place / "data.csv")
    assert head(*both) == "tau-0"
    assert head(*both, "--head", "tau-1") == "tau-1"
    assert head(*both, "--head", place / "tau-1") == "tau-1"
    bare = (place / "bare-0", place / "data.csv")
    assert head(*bare, "--head", place / "tau-1") == "tau-1"
    assert head(place / "bare-0", *both[1:]) == "tau-1"


def test_no_head_and_an_unknown_one_are_refused(
    place: Path, saved_model: SavedModel
) -> None:
    start = ("predict", saved_model("bert"))
    data = place / "data.csv"
    assert "has a head" in bad(*start, place / "bare-0", data, code=2)
    assert "has a head" in bad(*start, data, code=2)
    message = bad(*start, place / "tau-0", data, "--head", "nope", code=2)
    assert "no such head" in message
    assert "tau-0" in message
    message = bad(*start, place / "tau-0", data, "--head", place / "bare-1", code=2)
    assert "that task vector has no head" in message


def test_nothing_that_is_there_is_written_over(
    place: Path, saved_model: SavedModel
) -> None:
    words = ("predict", saved_model("bert"), place / "tau-0", place / "data.csv")
    before = (place / "data.csv").read_bytes()
    assert "exists already" in bad(*words, "-o", place / "data.csv")
    assert (place / "data.csv").read_bytes() == before
    assert "end its name with .csv" in bad(*words, "-o", place / "out.xlsx")
    assert "out" in bad(*words, "-o", place / "none/out.csv")


def test_unknown_columns_and_clashing_ones_are_refused(
    place: Path, saved_model: SavedModel
) -> None:
    words = ("predict", saved_model("bert"), place / "tau-0", place / "data.csv")
    message = bad(*words, "--copy", "idd")
    assert "no column 'idd' (--copy)" in message
    assert "columns are id, text, label" in message
    (place / "data.csv").write_text("class,text\n1,the dog\n")
    assert "'class' cannot be copied" in bad(*words, "--copy", "class")


def test_one_row_is_enough_and_images_are_told_by_their_path(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    from PIL import Image

    network = load_network(str(saved_model("vit")), device="cpu")
    name = "layernorm.weight"
    base = network.base.restrict({name})
    head = ClassifierHead(torch.eye(2, 8), ("a", "b"), 1.0)
    change = {name: torch.ones(8)}
    TaskVector(change, base, network.output_map.info, head).save(tmp_path / "tau")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), (200, 3, 3)).save(tmp_path / "images/red.png")
    words = ("predict", saved_model("vit"), tmp_path / "tau", tmp_path / "images")
    assert good(*words).splitlines()[0] == "image,class,probability"
    assert good(*words).splitlines()[1].startswith("red.png,")


def test_a_task_vector_is_used_in_the_mode_that_it_was_trained_in(
    place: Path, saved_model: SavedModel
) -> None:
    network = load_network(str(saved_model("bert")), device="cpu")
    examples = kfac.load_examples(place / "data.csv", network)
    taus = [TaskVector.load(place / f"tau-{i}") for i in range(2)]
    ordinary = TaskVector(
        taus[1].tensors, taus[1].base, settings={"mode": "plain"}, head=taus[1].head
    )
    assert kfac.predict(network, examples, taus).mode == "linear"
    assert kfac.predict(network, examples, [taus[0], ordinary]).mode == "plain"
    with pytest.raises(kfac.SettingsError, match="'linearised' and 1 factors"):
        kfac.predict(network, examples, taus[:1], alphas=[1.0], mode="linearised")
    with pytest.raises(kfac.SettingsError, match="1 factors"):
        kfac.predict(network, examples, taus, alphas=[1.0])
    with pytest.raises(kfac.MismatchError, match="has a head"):
        kfac.predict(network, examples)
