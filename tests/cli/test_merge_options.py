"""``kfac apply`` and ``kfac evaluate`` with the methods that merge task vectors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kfac_artifacts as kfac
from tests.commands import good, kfac as run
from tests.computed import COMPUTE
from tests.models import SavedModel

SETTINGS: dict[str, tuple[tuple[object, ...], Any]] = {
    "ties": (("--keep", "30%"), kfac.Ties(keep=0.3)),
    "tsv": (("--rank-share", "0.25"), kfac.Tsv(rank_share=0.25)),
    "iso-c": ((), kfac.IsoC()),
    "iso-cts": (("--common-share", "50%"), kfac.IsoCts(common_share=0.5)),
    "actmat": (
        ("--centred", "--columns", "*.query.weight", "--columns", "*.key.weight"),
        kfac.Actmat(centred=True, columns=("*.query.weight", "*.key.weight")),
    ),
}


@pytest.fixture
def taus(tmp_path: Path, saved_model: SavedModel) -> list[Path]:
    """Two task vectors of the second layer of a tiny BERT."""
    network = kfac.load_network(str(saved_model("bert")), device="cpu")
    names = {n for n in network.parameters() if "layer.1" in n}
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        tensors = {
            n: 0.01 * torch.randn(network.shapes[n], generator=generator) for n in names
        }
        kfac.TaskVector(tensors, network.base.restrict(names)).save(tmp_path / name)
    return [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_is_written_by_every_method(
    tmp_path: Path, taus: list[Path], saved_model: SavedModel, name: str
) -> None:
    options, method = SETTINGS[name]
    model, out = saved_model("bert"), tmp_path / "merged"
    said = good("apply", model, *taus, "-o", out, "--method", name, *options)
    vectors = [kfac.TaskVector.load(tau) for tau in taus]
    wanted = kfac.merge_task_vectors(vectors, [1.0, 1.0], method).tensors
    before, after = (load_file(p / "model.safetensors") for p in (model, out))
    assert set(wanted) == {n for n in before if not torch.equal(before[n], after[n])}
    for tensor, change in wanted.items():
        torch.testing.assert_close(after[tensor], before[tensor] + change)
    marker = json.loads((out / "kfac_apply.json").read_text())
    assert marker["method"] == name
    assert marker["settings"] == json.loads(json.dumps(vars(method)))
    averaged = [n for n in wanted if wanted[n].ndim != 2] if name != "ties" else []
    assert set(marker.get("averaged", [])) == set(averaged)
    assert (f"merged by the mean, {len(averaged)} param" in said) == bool(averaged)


def test_a_sum_is_written_without_a_word_about_methods(
    tmp_path: Path, taus: list[Path], saved_model: SavedModel
) -> None:
    out = tmp_path / "merged"
    said = good("apply", saved_model("bert"), *taus, "-o", out)
    assert "mean" not in said
    assert "method" not in json.loads((out / "kfac_apply.json").read_text())


def test_settings_that_are_not_of_the_method_are_refused_before_any_work(
    tmp_path: Path, taus: list[Path], saved_model: SavedModel
) -> None:
    out = tmp_path / "merged"
    for wrong, message in {
        ("--keep", "20%"): "keep does not go with the merge method sum, but with ties",
        ("--method", "ties", "--centred"): "centred does not go with .* ties",
        ("--method", "ties", "--keep", "120%"): "keep must be above 0 and at most 1",
        ("--method", "tsv", "--rank-share", "0.6"): "2 tasks .* at most 0.5",
    }.items():
        result = run("apply", saved_model("bert"), *taus, "-o", out, *wrong)
        assert result.exit_code == 1
        assert re.search(message, " ".join(result.output.split()))
        assert not out.exists()
    assert run("apply", "m", "t", "-o", out, "--method", "tie").exit_code == 2


def test_evaluation_scores_what_apply_writes(
    tmp_path: Path, taus: list[Path], saved_model: SavedModel
) -> None:
    model, data = saved_model("bert"), tmp_path / "data.csv"
    data.write_text("text,label\nthe cat runs,cat\na dog sings,dog\n")
    pairs = [f"{tau}={data}" for tau in taus]
    options = ("--method", "ties", "--keep", "50%", "--mode", "plain", "--json")
    found = json.loads(good("evaluate", model, *pairs, *options))
    assert len(found["modes"]["plain"]["tasks"]) == 2
    refused = run("evaluate", model, *pairs, "--keep", "50%")
    assert refused.exit_code == 1
    assert "keep does not go with" in refused.output


TEXTS = {"a": "the cat runs", "b": "a dog sings in red"}


@pytest.fixture
def artifacts(tmp_path: Path, saved_model: SavedModel) -> list[Path]:
    """The inputs of two tasks."""
    for name, text in TEXTS.items():
        table = tmp_path / f"{name}.csv"
        table.write_text("text\n" + "\n".join([text, f"{text} and {text}"] * 4) + "\n")
        options = ("--estimator", "inputs", "--modules", "*layer.1*")
        out = tmp_path / f"{name}-inputs"
        good(*COMPUTE, saved_model("bert"), table, *options, "-o", out)
    return [tmp_path / f"{name}-inputs" for name in TEXTS]


def test_a_model_is_written_by_regression_on_the_inputs_of_artifacts(
    tmp_path: Path, taus: list[Path], artifacts: list[Path], saved_model: SavedModel
) -> None:
    model, out = saved_model("bert"), tmp_path / "merged"
    said = good(
        *("apply", model, *taus, "-o", out, "--method", "regmean"),
        *(
            "--curvature",
            f"b={artifacts[1]}",
            "--curvature",
            f"{taus[0]}={artifacts[0]}",
        ),
        *("--off-diagonal", "50%", "--weights", "positions"),
    )
    curvature = tuple(map(kfac.load_artifact, artifacts))
    method = kfac.RegMean(curvature, off_diagonal=0.5, weights="positions")
    vectors = [kfac.TaskVector.load(tau) for tau in taus]
    wanted = kfac.merge_task_vectors(vectors, [1.0, 1.0], method).tensors
    before, after = (load_file(p / "model.safetensors") for p in (model, out))
    for tensor, change in wanted.items():
        torch.testing.assert_close(after[tensor], before[tensor] + change)
    marker = json.loads((out / "kfac_apply.json").read_text())
    assert marker["settings"] == {"off_diagonal": 0.5, "weights": "positions"}
    assert [c["digest"] for c in marker["curvature"]] == [c.digest for c in curvature]
    norms = {n for n in wanted if "LayerNorm" in n}
    assert set(marker["averaged"]) == norms
    assert f"merged by the mean, {len(norms)} parameters" in said


def test_artifacts_are_wanted_for_every_task_vector_and_for_regmean_alone(
    tmp_path: Path, taus: list[Path], artifacts: list[Path], saved_model: SavedModel
) -> None:
    start = ("apply", saved_model("bert"), *taus, "-o", tmp_path / "merged")
    one, two = (f"--curvature={n}={p}" for n, p in zip("ab", artifacts, strict=True))
    regmean = ("--method", "regmean")
    for wrong, code, message in (
        (regmean, 1, "needs the artifact of every task: .* 2 .* 0 artifacts"),
        ((*regmean, one), 2, "0 --curvature of .*b; give one, as b=ARTIFACT"),
        ((*regmean, one, one, two), 2, "2 --curvature of .*a; give one"),
        ((*regmean, one, two, "--curvature=c=x"), 2, "2 task vectors and 3"),
        ((*regmean, one, "--curvature=b="), 2, "give one, as b=ARTIFACT"),
        ((*regmean, one, "--curvature=b=nothing"), 3, "nothing"),
        (("--method", "ties", one, two), 1, "curvature does not go with .*regmean"),
        ((*regmean, one, two, "--keep", "10%"), 1, "keep does not go with"),
    ):
        result = run(*start, *wrong)
        assert result.exit_code == code, result.output
        assert re.search(message, " ".join(result.output.split())), result.output
        assert not (tmp_path / "merged").exists()


def test_a_place_that_holds_an_artifact_in_use_is_not_written_over(
    taus: list[Path], artifacts: list[Path], saved_model: SavedModel
) -> None:
    one, two = (f"--curvature={n}={p}" for n, p in zip("ab", artifacts, strict=True))
    result = run(
        *("apply", saved_model("bert"), *taus, "-o", artifacts[0], "--force"),
        *("--method", "regmean", one, two),
    )
    assert result.exit_code == 1
    assert (artifacts[0] / "kfac.json").exists()
