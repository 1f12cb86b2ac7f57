"""Models that a function gives, through the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_model

from kfac_artifacts.format import load_artifact
from kfac_artifacts.sources import load_network
from kfac_artifacts.task_vector import TaskVector, load_head
from tests.commands import bad, good
from tests.computed import COMPUTE

MODULE = """
import numpy as np
import torch
from torch import nn
from kfac_artifacts import NamedConfig, Network, OutputMap

def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(26, 6), nn.Tanh(), nn.Linear(6, 4))
    f = OutputMap(NamedConfig("org.example/letters"), lambda m, b: m(b["x"]))
    return Network(module, f, "letters")

def encode(texts):
    counts = [[float(text.count(chr(97 + i))) for i in range(26)] for text in texts]
    return {"x": torch.tensor(counts)}

def other():
    changed = network()
    with torch.no_grad():
        changed.module[0].weight.add_(1)
    return changed, encode

def letters():
    return network(), encode

def colours():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    f = OutputMap(NamedConfig("org.example/colours"), lambda m, b: m(b["pixels"]))
    def pixels(images):
        arrays = [np.asarray(image).mean((0, 1)) / 255 for image in images]
        return {"pixels": torch.tensor(np.stack(arrays)).float()}
    return Network(module, f, "colours"), pixels

def none():
    return 3

def broken():
    raise RuntimeError("no weights here")

def of_nothing():
    return network(), lambda texts: {"x": torch.zeros(1, 26)}

value = 3
"""
TEXTS = ["the cat runs", "a dog sings", "cat in red", "dog is good"]
CPU = ("--device", "cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "letter_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    rows = [f"{text} {i},{text.split()[1]}" for i in range(3) for text in TEXTS]
    rows = [row.replace(",in", ",cat").replace(",is", ",dog") for row in rows]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows, ""]))
    return tmp_path


MODEL = "letter_models:letters"


def test_a_network_of_ones_own_goes_through_the_commands(here: Path) -> None:
    data = here / "data.csv"
    good(*COMPUTE, MODEL, data, "-o", here / "a")
    assert load_artifact(here / "a").provenance.base.id == "letters"
    assert "BAD" not in good("verify", here / "a", "--model", MODEL)
    words = [f"{text} and {text[::-1]}" for text in TEXTS]
    (here / "test.csv").write_text("\n".join(["text", *words, ""]))
    how = ("--examples", 4, "--json")
    found = json.loads(good("fidelity", here / "a", MODEL, here / "test.csv", *how))
    assert found["held_out"]["data"]["examples"] >= 3
    good(
        *("train", MODEL, data, "--curvature", here / "a", "-o", here / "tau", *CPU),
        *("--head", "linear", "--steps", 30, "--lr", 0.01, "--batch-size", 6),
    )
    evaluated = json.loads(good("evaluate", MODEL, f"{here}/tau={data}", "--json"))
    right = evaluated["modes"]["linear"]["tasks"]["tau"]["individual"]
    labels = [row.split(",")[1] for row in data.read_text().splitlines()[1:]]
    rows = json.loads(good("predict", MODEL, here / "tau", data, "--json"))["rows"]
    hits = [row["class"] == label for row, label in zip(rows, labels, strict=True)]
    assert sum(hits) / len(hits) == right


def test_it_is_the_network_that_the_function_gives(here: Path) -> None:
    network = load_network(MODEL, device="cpu")
    torch.manual_seed(0)
    first = torch.nn.Linear(26, 6)
    assert torch.equal(network.parameters()["0.weight"], first.weight)
    assert network.output_map.info.name == "org.example/letters"
    assert load_network(MODEL, model_id="mine").id == "mine"


def test_images_are_given_to_its_encoder(here: Path) -> None:
    for name, colour in (("red", (200, 9, 9)), ("blue", (9, 9, 200))):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGB", (4, 4), tuple(c + i for c in colour))
            image.save(here / "photos" / name / f"{i}.png")
    model, photos = "letter_models:colours", here / "photos"
    options = ("--head", "prototypes", "--steps", 20, "--lr", 0.02, "--batch-size", 3)
    good("train", model, photos, "-o", here / "tau", *options, *CPU)
    settings: Any = TaskVector.load(here / "tau").settings
    how = settings["data"]["preprocessing"]
    assert how["name"] == "image"
    assert how["configuration"]["encoder"] == model
    rows = json.loads(good("predict", model, here / "tau", photos, "--json"))["rows"]
    assert all(row["image"].startswith(row["class"]) for row in rows)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("letter_models:none", "gives a int; it must give a kfac_artifacts.Network"),
        ("letter_models:broken", "RuntimeError: no weights here"),
        ("letter_models:nothing", "has no attribute 'nothing'"),
        ("letter_models:value", "'int' object is not callable"),
        ("no_such_module:letters", "No module named 'no_such_module'"),
        ("letter_models:network", "gives no encoder"),
        ("letter_models:of_nothing", "one entry for each of"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(
    here: Path, model: str, message: str
) -> None:
    said = bad(*COMPUTE, model, here / "data.csv", "-o", here / "a")
    assert message in said
    assert not (here / "a").exists()


def _trained(here: Path) -> TaskVector:
    options = ("--head", "prototypes", "--steps", 1, "--batch-size", 4)
    good("train", MODEL, here / "data.csv", "-o", here / "tau", *options, *CPU)
    return TaskVector.load(here / "tau")


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_weights_with_a_task_vector_added_load_into_the_module(
    here: Path, dtype: str | None
) -> None:
    tau = _trained(here)
    more = () if dtype is None else ("--dtype", dtype)
    how = ("--alpha", "2", *more, "-o", here / "out")
    said = json.loads(good("apply", MODEL, here / "tau", *how, "--json"))
    assert said["changed"] == sorted(tau.tensors)
    assert (said["lost"] == 0) == (dtype is None)
    assert load_head(here / "out" / "heads" / "tau")[0].classes == ("cat", "dog")
    network, plain = (load_network(MODEL, device="cpu") for _ in range(2))
    module = network.module.to(getattr(torch, dtype or "float32"))
    load_model(module, here / "out" / "model.safetensors")
    for name, value in plain.parameters().items():
        moved = value + 2 * tau.tensors[name] if name in tau.tensors else value
        assert torch.equal(network.parameters()[name], moved.to(module[0].weight.dtype))


def test_a_task_vector_of_another_model_is_not_added(here: Path) -> None:
    _trained(here)
    said = bad("apply", "letter_models:other", here / "tau", "-o", here / "out")
    assert "0.weight" in said
    assert not (here / "out").exists()


def test_numbers_that_become_too_large_are_not_written(here: Path) -> None:
    _trained(here)
    how = ("--alpha", "1e45", "-o", here / "out")
    assert "not finite" in bad("apply", MODEL, here / "tau", *how)
    assert not (here / "out").exists()


def test_a_plan_says_what_computing_does(here: Path) -> None:
    good(*COMPUTE, MODEL, here / "data.csv", "-o", here / "a")
    planned = json.loads(good("plan", MODEL, "--tokens", 4, "--json"))
    computed = load_artifact(here / "a").blocks
    assert [block["name"] for block in planned["blocks"]] == sorted(computed)
    assert planned["outputs"] == 4
    images = json.loads(
        good("plan", "letter_models:colours", "--image-size", 4, "--json")
    )
    assert images["outputs"] == 3


def test_a_plan_is_told_how_large_an_example_is(here: Path) -> None:
    for size in ((), ("--tokens", 4, "--image-size", 4)):
        assert "--tokens" in bad("plan", MODEL, *size)
    assert "gives no encoder" in bad("plan", "letter_models:network", "--tokens", 4)


def test_options_that_a_function_decides_itself_are_refused(here: Path) -> None:
    options = ("--head", "prototypes", "--steps", 1, "--batch-size", 4)
    words = ("train", MODEL, here / "data.csv", "-o", here / "b", *CPU)
    assert "--head prototypes or linear" in bad(*words, "--steps", 1)
    assert "drop --output-map" in bad(*words, "--output-map", "cls")
    assert "drop --max-length" in bad(*words, "--prompt", "a", *options)


def test_the_current_directory_is_not_kept_on_the_path(here: Path) -> None:
    import sys

    before = list(sys.path)
    load_network(MODEL, device="cpu")
    assert sys.path == before
