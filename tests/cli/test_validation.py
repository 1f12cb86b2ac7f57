"""``kfac evaluate`` that chooses a factor on other data than it reports."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import kfac_artifacts as kfac
from tests.commands import good, kfac as run
from tests.models import SavedModel

SWEEP = ("--sweep", "-4:4:1", "--mode", "plain")
WORDS = ["cat", "dog", "bird", "fish", "red", "blue"]


@pytest.fixture
def pair(tmp_path: Path, saved_model: SavedModel) -> list[Path]:
    """Two task vectors that disturb, and for each a table to test and one to choose."""
    network = kfac.load_network(str(saved_model("bert")), device="cpu")
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate("ab"):
        names = {n for n in network.parameters() if "layer.1" in n}
        tensors = {
            n: 0.2 * torch.randn(network.shapes[n], generator=generator) for n in names
        }
        kfac.TaskVector(tensors, network.base.restrict(names)).save(tmp_path / name)
        for kind, offset in (("test", 0), ("dev", 1)):
            rows = [
                f"the {word} sits and {WORDS[(i + number + offset) % 6]} runs,{word}"
                for i, word in enumerate(WORDS)
            ]
            table = tmp_path / f"{name}-{kind}.csv"
            table.write_text("\n".join(["text,label", *rows, ""]))
    return [tmp_path / "a", tmp_path / "b"]


def test_the_factor_is_that_of_the_validation_data_and_the_scores_are_not(
    pair: list[Path], saved_model: SavedModel
) -> None:
    model = saved_model("bert")
    tests, devs = ([f"{t}={t}-{kind}.csv" for t in pair] for kind in ("test", "dev"))
    chosen = [f"--validation={dev}" for dev in reversed(devs)]
    found = json.loads(good("evaluate", model, *tests, *SWEEP, *chosen, "--json"))
    alone = json.loads(good("evaluate", model, *devs, *SWEEP, "--json"))
    assert found["validation"] == alone["modes"]
    (alpha,) = found["modes"]["plain"]["alphas"]
    assert alpha == alone["modes"]["plain"]["best_alpha"]
    options = ("--alpha", alpha, "--mode", "plain", "--json")
    wanted = json.loads(good("evaluate", model, *tests, *options))
    assert found["modes"] == wanted["modes"]
    assert [Path(r["data"]).name for r in found["read"]][2:] == [
        "a-dev.csv",
        "b-dev.csv",
    ]
    said = good("evaluate", model, *tests, *SWEEP, *chosen)
    report, sweep = said.split("chosen on validation data:")
    assert f"plain, at alpha {alpha:g}" in report
    assert "normalised" in report
    assert f"plain, at best alpha {alpha:g}" in sweep
    assert "-4" in sweep
    assert "-4" not in report


def test_validation_wants_factors_to_choose_from_and_data_of_every_task(
    pair: list[Path], saved_model: SavedModel
) -> None:
    a, b = (f"{tau}={tau}-test.csv" for tau in pair)
    x, y = (f"--validation={tau}={tau}-dev.csv" for tau in pair)
    same = f"--validation={b}"
    for wrong, code, message in (
        ((x, y), 2, "needs several; give --sweep"),
        (("--validation-split", "dev"), 2, "needs several; give --sweep"),
        ((*SWEEP, x), 2, "needs data for every TAU"),
        ((*SWEEP, x, x), 2, "occurs twice"),
        ((*SWEEP, x, same), 1, "b would be reported on the very data"),
    ):
        result = run("evaluate", saved_model("bert"), a, b, *wrong)
        assert result.exit_code == code, result.output
        assert message in " ".join(result.output.split())


def test_another_split_of_the_same_data_may_choose(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model = saved_model("vit")
    network = kfac.load_network(str(model), device="cpu")
    tensors = {n: torch.full(s, 0.01) for n, s in network.shapes.items()}
    kfac.TaskVector(tensors, network.base).save(tmp_path / "a")
    for split, count in (("test", 2), ("dev", 3)):
        for label, colour in (("cat", 40), ("dog", 200)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (8, 8), (colour, 10 * i, count))
                image.save(folder / f"{i}.png")
    pair = f"{tmp_path / 'a'}={tmp_path / 'images'}"
    options = ("--split", "test", "--validation-split", "dev", "--head", "prototypes")
    found = json.loads(good("evaluate", model, pair, *SWEEP, *options, "--json"))
    (mode,) = found["modes"].values()
    assert mode["tasks"]["a"]["examples"] == 4
    (sweep,) = found["validation"].values()
    assert sweep["tasks"]["a"]["examples"] == 6
    assert mode["alphas"] == [sweep["best_alpha"]]
    same = ("--split", "test", "--validation-split", "test", "--head", "prototypes")
    assert "the very data" in run("evaluate", model, pair, *SWEEP, *same).output
