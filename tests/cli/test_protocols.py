"""Protocols of ``kfac evaluate``, and ``kfac localise``: the library's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.evaluate import ControlTask, union_head
from kfac_artifacts.network import LabelledExamples
from kfac_artifacts.sources import make_head
from tests.commands import bad, good
from tests.models import SavedModel

WORDS = {
    "a": ["cat", "dog", "bird", "fish"],
    "b": ["red", "blue", "white", "black"],
    "control": ["sings", "swims", "good", "brown"],
}
SPLITS = ("test", "dev")


@pytest.fixture
def place(
    tmp_path: Path, saved_model: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A model; two task vectors that move it far; data of each and of a control."""
    monkeypatch.chdir(tmp_path)
    network = kfac.load_network(str(saved_model("bert")), device="cpu")
    generator = torch.Generator().manual_seed(0)
    names = {n for n in network.parameters() if "layer.1" in n}
    for task, words in WORDS.items():
        for number, split in enumerate(SPLITS):
            rows = [
                f"the {word} sits and {words[(i + number + j) % 4]} runs,{word}"
                for j in range(1, 3)
                for i, word in enumerate(words)
            ]
            table = Path(f"{task}-{split}.csv")
            table.write_text("\n".join(["text,label", *rows, ""]))
        if task != "control":
            tensors = {
                n: 0.2 * torch.randn(network.shapes[n], generator=generator)
                for n in sorted(names)
            }
            info, base = network.output_map.info, network.base.restrict(names)
            head = make_head(network, _examples(f"{task}-test.csv", network))
            kfac.TaskVector(tensors, base, info, head).save(task)
    return str(saved_model("bert"))


def _examples(path: str, network: kfac.Network) -> LabelledExamples:
    return kfac.load_examples(path, network, label_column="label")


def _tasks(network: kfac.Network, split: str = "test") -> list[kfac.EvaluationTask]:
    found = []
    for name in "ab":
        examples = _examples(f"{name}-{split}.csv", network)
        found.append(kfac.EvaluationTask(name, kfac.TaskVector.load(name), examples))
    return found


def _json(*words: object) -> Any:
    return json.loads(good(*words, "--json"))


PAIRS = ("a=a-test.csv", "b=b-test.csv")
SWEEP = ("--sweep", "-2:2:0.5")


def test_negation_is_that_of_the_library(place: str) -> None:
    network = kfac.load_network(place, device="cpu")
    chosen = ("--validation", "a=a-dev.csv", "--validation", "b=b-dev.csv")
    control = ("--control", "control-test.csv", "--keep-control", "60%")
    words = ("evaluate", place, *PAIRS, "--protocol", "negation", *SWEEP, *control)
    held_out = ("--control-validation", "control-dev.csv", *chosen)
    found = _json(*words, *held_out)
    test, dev = (_examples(f"control-{split}.csv", network) for split in SPLITS)
    kept = ControlTask("control-test.csv", test, make_head(network, test), 0.6, dev)
    wanted = kfac.negate(
        network,
        _tasks(network),
        kept,
        alphas=[-2 + 0.5 * i for i in range(9)],
        validation=[task.examples for task in _tasks(network, "dev")],
    ).to_json()
    assert {name: found[name] for name in wanted} == wanted
    assert [Path(read["data"]).name for read in found["read"]] == [
        "a-test.csv",
        "b-test.csv",
        "a-dev.csv",
        "b-dev.csv",
        "control-test.csv",
        "control-dev.csv",
    ]
    said = good(*words, *held_out, "--plot", "negation.svg", "--template", "a {}")
    assert "plain, keeping 60 % of control-test.csv" in said
    assert "chosen on validation data:" in said
    assert Path("negation.svg").stat().st_size > 1000
    assert "best" in good(*words)


def test_disentanglement_is_that_of_the_library(place: str) -> None:
    network = kfac.load_network(place, device="cpu")
    words = ("evaluate", place, *PAIRS, "--protocol", "disentanglement")
    found = _json(*words, "--sweep", "-2:2:2")
    wanted = kfac.disentanglement(network, _tasks(network), alphas=(-2.0, 0.0, 2.0))
    told = wanted.to_json()
    assert {name: found[name] for name in told} == told
    largest = max(max(row) for row in wanted.modes[0].error)
    assert largest > 0
    said = good(*words, "--sweep", "-2:2:2", "--plot", "errors.png")
    assert f"largest {largest:.3g} over 9 pairs" in said
    assert Path("errors.png").stat().st_size > 1000


def test_union_is_among_the_classes_of_all_tasks(place: str) -> None:
    network = kfac.load_network(place, device="cpu")
    tasks = _tasks(network)
    words = ("evaluate", place, *PAIRS, "--protocol", "union")
    found = _json(*words, "--alpha", "0.1")
    heads = [task.vector.head for task in tasks]
    one = union_head([head for head in heads if head is not None])
    assert one.classes == tuple(sorted(WORDS["a"]) + sorted(WORDS["b"]))
    joint = [kfac.EvaluationTask(t.name, t.vector, t.examples, one) for t in tasks]
    wanted = kfac.evaluate(network, joint, alphas=[0.1]).to_json()
    assert found["modes"] == wanted["modes"]
    alone = _json("evaluate", place, *PAIRS, "--alpha", "0.1")
    assert alone["modes"] != found["modes"]
    assert "over all examples, among the classes of all tasks" in good(*words)


def test_what_does_not_go_with_a_protocol_is_refused(place: str) -> None:
    negation = ("--protocol", "negation", *SWEEP, "--control", "control-test.csv")
    dev = ("--validation", "a=a-dev.csv")
    for words, said in (
        (("--control", "control-test.csv"), "--control does not go with --protocol ad"),
        (("--protocol", "negation"), "needs --control DATA"),
        ((*negation, *dev), "give --control-validation"),
        ((*negation, "--control-validation", "b-dev.csv"), "give --validation of each"),
        ((*negation, "--method", "ties"), "--method does not go with --protocol neg"),
        ((*SWEEP, "--protocol", "disentanglement", *dev), "--validation does not go"),
    ):
        message = bad("evaluate", place, PAIRS[0], *words, code=2)
        assert said in " ".join(message.split())
    one = bad("evaluate", place, PAIRS[0], "--protocol", "disentanglement")
    assert "is of two task vectors" in one
    Path("a").rename("control")
    message = bad("evaluate", place, "control=a-test.csv", *negation, code=2)
    assert "write ./control=a-test.csv" in " ".join(message.split())


def test_localisation_is_that_of_the_library_and_needs_no_labels(place: str) -> None:
    network = kfac.load_network(place, device="cpu")
    Path("far.csv").write_text("text\na bird swims\nit is good\n")
    words = ("localise", place, *PAIRS, "--outside", "far.csv")
    found = _json(*words)
    data: dict[str, Any] = {
        name: kfac.load_examples(f"{name}-test.csv", network) for name in "ab"
    }
    data["far.csv"] = kfac.load_examples("far.csv", network)
    vectors = {name: kfac.TaskVector.load(name) for name in "ab"}
    wanted = kfac.localise(network, vectors, data).to_json()
    assert {name: found[name] for name in wanted} == wanted
    assert found["modes"]["linear"]["tasks"]["a"]["data"]["far.csv"]["examples"] == 2
    said = good(*words, "--mode", "linear", "--plot", "scores.pdf")
    auroc = found["modes"]["linear"]["tasks"]["b"]["auroc"]
    assert f"{auroc:.3f}".rstrip("0") in said
    assert "plain" not in said
    assert Path("scores.pdf").stat().st_size > 1000
    message = bad("localise", place, PAIRS[0], code=2)
    assert "give --outside" in " ".join(message.split())
