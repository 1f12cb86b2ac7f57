"""``kfac fidelity``: an artifact beside the truth, from files to a table."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import Result

from kfac_artifacts.sources import load_network
from kfac_artifacts.task_vector import TaskVector
from tests.commands import good, kfac
from tests.computed import COMPUTE
from tests.models import WORDS, SavedModel, save_tiny_bert


def texts(path: Path, count: int, shift: int) -> Path:
    lines = [
        " ".join(WORDS[(3 * i + j + shift) % len(WORDS)] for j in range(2 + i % 3))
        for i in range(count)
    ]
    path.write_text("\n".join(["text", *lines]) + "\n")
    return path


class Place:
    """A model, an artifact of it, and data: some seen, some not."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model = root, model
        self.artifact = root / "artifact"
        self.seen = texts(root / "seen.csv", 8, shift=0)
        self.test = texts(root / "test.csv", 12, shift=1)
        good(*COMPUTE, model, self.seen, "-o", self.artifact, "--examples", 5)

    def fidelity(self, data: Path, *words: object) -> Result:
        return kfac("fidelity", self.artifact, self.model, data, *words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, saved_model: SavedModel) -> Place:
    return Place(tmp_path_factory.mktemp("fidelity"), saved_model("bert"))


def test_json_has_every_module_and_adds_up(place: Place) -> None:
    result = place.fidelity(place.test, "--json", "--examples", 8, "--directions", 2)
    found = json.loads(result.stdout)
    assert all(found["verdict"])
    assert set(found) == {
        "verdict",
        "digest",
        "estimator",
        "held_out",
        "cotangents",
        "total",
        "kinds",
        "directions",
        "modules",
        "read",
    }
    assert found["read"]["used"] == 8
    assert found["held_out"]["data"]["examples"] == 8
    assert found["cotangents"]["name"] == "mc"
    assert found["digest"] is not None
    modules = json.loads(good("inspect", place.artifact, "--json"))["modules"]
    assert [m["name"] for m in found["modules"]] == [m["name"] for m in modules]
    assert sum(m["share"] for m in found["modules"]) == pytest.approx(1)
    assert set(found["total"]) == {
        "error",
        "squared_error",
        "standard_error",
        "norm",
        "predicted_norm",
        "cosine",
        "best_scale",
    }
    squares = [m["predicted_norm"] ** 2 for m in found["modules"]]
    assert sum(squares) == pytest.approx(found["total"]["predicted_norm"] ** 2)
    assert set(found["directions"]) == {"random", "gradient"}
    random = found["directions"]["random"]
    assert random["modules"]["count"] == 2 * len(modules)
    predicted = [m["directions"]["random"]["drifts"][0] for m in found["modules"]]
    total = sum(drift["predicted"] for drift in predicted)
    assert random["drifts"][0]["predicted"] == pytest.approx(total)


def test_the_table_has_the_worst_modules_and_the_total(place: Place) -> None:
    result = place.fidelity(place.test, "--top", 3, "--directions", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert re.match(r"held out: 9 of 12 examples of [^/]+/test\.csv; mc", lines[0])
    header = next(line for line in lines if line.startswith("module"))
    assert header.split()[-4:] == ["random", "gradient", "share,", "%"]
    start = lines.index(header) + 1
    shares = [float(line.split()[-1]) for line in lines[start : start + 3]]
    assert shares == sorted(shares, reverse=True)
    assert lines[start + 3].startswith("in total")
    assert any(line.startswith("gradient") and "single" in line for line in lines)
    assert "true curvature" in lines[-1] or "it sees" in lines[-1]  # a verdict in words


def test_seen_examples_are_left_out_and_said_to_be(place: Place) -> None:
    result = place.fidelity(place.seen, "--directions", 0)
    assert "3 of 8 examples of seen.csv (5 seen by the artifact left out)" in (
        result.stdout
    )
    assert "Warning" not in result.stderr


def test_other_data_of_the_same_name_are_warned_of(
    place: Place, tmp_path: Path
) -> None:
    other = texts(tmp_path / "seen.csv", 9, shift=2)
    result = place.fidelity(other, "--directions", 0)
    assert result.exit_code == 0
    assert "which examples it has seen cannot be told" in result.stderr


def test_data_that_are_all_seen_are_refused(place: Place, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    good(*COMPUTE, place.model, place.seen, "-o", whole)
    result = kfac("fidelity", whole, place.model, place.seen)
    assert result.exit_code == 1
    assert "give other data" in result.stderr


def test_another_model_is_refused_with_the_differences(
    place: Place, tmp_path: Path
) -> None:
    other = save_tiny_bert(tmp_path / "other", seed=1)
    result = kfac("fidelity", place.artifact, other, place.test)
    assert result.exit_code == 1
    assert "has other values in" in result.stderr
    assert "Traceback" not in result.output


def test_task_vectors_and_other_data_give_directions(
    place: Place, tmp_path: Path
) -> None:
    network = load_network(str(place.model))
    name = "encoder.layer.1.output.dense.bias"
    for i in (1, 2):
        vector = TaskVector({name: i * torch.ones(8)}, network.base.restrict({name}))
        vector.save(tmp_path / f"tau-{i}")
    words = ["--task-vector", tmp_path / "tau-1", "--task-vector", tmp_path / "tau-2"]
    words += ["--directions-data", place.seen, "--directions", 1, "--json"]
    found = json.loads(place.fidelity(place.test, *words).stdout)
    drifts = found["directions"]["task-vector"]["drifts"]
    assert [drift["direction"] for drift in drifts] == ["tau-1", "tau-2"]
    assert drifts[1]["true"] == pytest.approx(4 * drifts[0]["true"], rel=1e-4)
    assert found["held_out"]["data"]["examples"] == 12
    assert found["directions"]["gradient"]["total"]["count"] == 1


def test_unit_vectors_leave_no_noise_of_cotangents(place: Place) -> None:
    words = ("--directions", 0, "--json", "--cotangents", "exact")
    one = json.loads(place.fidelity(place.test, *words, "--seed", 1).stdout)
    other = json.loads(place.fidelity(place.test, *words, "--seed", 2).stdout)
    assert one["total"]["norm"] == pytest.approx(other["total"]["norm"], rel=1e-4)
    assert place.fidelity(place.test, *words, "--draws", 2).exit_code == 2


def test_a_picture_is_drawn_and_is_the_same_every_time(
    place: Place, tmp_path: Path
) -> None:
    for name in ("one.png", "two.png"):
        words = ("--directions", 1, "--plot", tmp_path / name)
        assert place.fidelity(place.test, *words).exit_code == 0
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "two.png").read_bytes()
    wrong = place.fidelity(place.test, "--directions", 0, "--plot", tmp_path / "a.gif")
    assert wrong.exit_code == 1
    assert "end its name with .png" in wrong.stderr
