"""An owner's own check: what is computed again is what was published, or it is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts import choices
from kfac_artifacts.artifact import Artifact, Cotangents, HeldFactors, NamedConfig
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import Nearest, choose_estimator, recompute
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.verify import Finding
from tests import models
from tests.commands import bad, good, kfac
from tests.computed import COMPUTE, compute
from tests.models import SavedModel
from tests.test_privacy import bert, texts

ESTIMATORS = ("kfac", "kfac-reduce", "nearest", "ekfac", "inputs", "diagonal")
LAYERS = ("encoder.layer.0.*",)


def computed(estimator: str = "kfac", count: int = 20, **options: Any) -> Artifact:
    return compute(
        bert(), texts(30), count=count, estimator=choose_estimator(estimator), **options
    )


def stored(artifact: Artifact, path: Path) -> Artifact:
    """The same from disk, in float32: of it the least difference counts."""
    save_artifact(artifact, path / "stored", allow_indefinite=True)
    return load_artifact(path / "stored")


def of(findings: list[Finding]) -> dict[str, str]:
    return {f.what: f.message for f in findings if not f.good}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_is_computed_again(tmp_path: Path, estimator: str) -> None:
    artifact = stored(computed(estimator, only=LAYERS), tmp_path)
    findings = recompute(artifact, bert(), texts(30), batch_size=7)
    assert of(findings) == {}
    assert "the same 20 of 30 examples" in findings[-2].message
    assert f"{len(artifact.blocks)} blocks agree" in findings[-1].message
    assert "where 1.0e-03 is allowed" in findings[-1].message


@pytest.mark.parametrize(
    "options",
    [
        {"cotangents": Cotangents("exact", None, 3)},
        {"cotangents": Cotangents("mc", 2, 5)},
        {"exclude": ("*.bias",)},
        {"means": True, "only": ("*query.weight",)},
    ],
)
def test_what_was_chosen_is_chosen_again(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    artifact = stored(computed(**options), tmp_path)
    assert of(recompute(artifact, bert(), texts(30))) == {}


def test_options_of_an_estimator_are_taken_from_the_manifest() -> None:
    options = {"estimator": Nearest(terms=2, shrinkage=False), "only": ("*query*",)}
    artifact = compute(bert(), texts(30), count=20, **options)
    assert of(recompute(artifact, bert(), texts(30))) == {}
    told = NamedConfig("nearest", {"terms": 2, "shrinkage": True, "sweeps": 6})
    other = replace(artifact.provenance, estimator=told)
    (message,) = of(
        recompute(replace(artifact, provenance=other), bert(), texts(30))
    ).values()
    assert "blocks differ" in message


@pytest.mark.parametrize("name", ["encoder.layer.0.output.dense.B", "A"])
def test_a_factor_that_was_changed_is_found(tmp_path: Path, name: str) -> None:
    """By one per cent, which no check of the file alone can see."""
    artifact = computed(only=("*.0.output.dense.*",))
    (found,) = [n for n in artifact.factors if n.endswith(name)]
    factors = {n: artifact.factors[n] for n in artifact.factors}
    factors[found] = Dense(1.01 * artifact.factors[found].to_dense())
    changed = stored(replace(artifact, factors=HeldFactors(factors)), tmp_path)
    (message,) = of(recompute(changed, bert(), texts(30))).values()
    assert "1 of 1 blocks differ" in message
    assert "1.0e-02 in" in message
    assert of(recompute(changed, bert(), texts(30), tolerance=0.02)) == {}


def test_other_data_are_told_by_their_fingerprint() -> None:
    artifact, data = computed(only=LAYERS), texts(30)
    ids = data.tensors["input_ids"].clone()
    ids[:, 1] = ids[:, 1].roll(1)
    changed = TensorExamples({**data.tensors, "input_ids": ids}, "texts")
    assert "they were changed" in of(recompute(artifact, bert(), changed))["data"]
    assert (
        "29 examples; the manifest has 30"
        in (of(recompute(artifact, bert(), texts(29)))["data"])
    )


def test_another_model_and_another_output_map_are_told() -> None:
    artifact = computed(only=LAYERS)
    other = bert()
    with torch.no_grad():
        other.module.encoder.layer[0].output.dense.bias += 1
    name = "encoder.layer.0.output.dense.bias"
    assert name in str(of(recompute(artifact, other, texts(30))))
    info = NamedConfig("first", {"scale": 2})
    mapped = OutputMap(info, lambda m, b: 2 * m(**b).last_hidden_state[:, 0])
    doubled = Network(models.tiny_bert(), mapped, "bert")
    assert (
        "the manifest has first"
        in (of(recompute(artifact, doubled, texts(30)))["output map"])
    )


def test_a_merged_artifact_is_of_several_data() -> None:
    one = computed(only=LAYERS)
    other = compute(bert(), texts(25), count=20, only=LAYERS)
    with pytest.raises(SettingsError, match="of 2 tasks; only that of one"):
        recompute(merge([one, other]), bert(), texts(30))


def test_only_some_modules_are_computed_again() -> None:
    found = recompute(computed(), bert(), texts(30), only=("*.1.output.dense.*",))
    assert found[-1].message.startswith("1 blocks agree")
    with pytest.raises(SettingsError, match="covers nothing called nothing"):
        recompute(computed(only=LAYERS), bert(), texts(30), only=("nothing",))


@pytest.mark.parametrize("recipe", ["int8", "low-rank-4", "block-2+int8", "bfloat16"])
def test_what_compressing_lost_is_allowed_for(tmp_path: Path, recipe: str) -> None:
    save_artifact(computed(only=LAYERS), tmp_path / "small", recipe=recipe)
    small = load_artifact(tmp_path / "small")
    assert of(recompute(small, bert(), texts(30))) == {}


def test_the_command_computes_again(saved_model: SavedModel, tmp_path: Path) -> None:
    model, data = saved_model("bert"), tmp_path / "notes.csv"
    rows = [" ".join(models.WORDS[n] for n in (i % 9, i // 9)) for i in range(30)]
    data.write_text("\n".join(["text", *rows]) + "\n")
    good(*COMPUTE, model, data, "-o", tmp_path / "a", "--max-length", 6)
    again = ("verify", tmp_path / "a", "--recompute", model, data)
    assert "blocks agree" in good(*again, "--max-length", 6, "--batch-size", 5)
    assert "blocks agree" in good(*again)  # as the manifest says
    result = kfac(*again, "--max-length", 4)
    assert result.exit_code == 3
    assert "BAD  preprocessing: text" in result.stdout
    data.write_text("\n".join(["text", *rows[::-1]]) + "\n")
    result = kfac(*again, "--max-length", 6)
    assert result.exit_code == 3
    assert "BAD  data: the fingerprint" in result.stdout
    bad("verify", tmp_path / "a", "--recompute", model, code=2)


@pytest.mark.parametrize("wrong", [{"columns": 5}, {"max_length": "6"}, {"prompt": []}])
def test_a_manifest_that_says_nonsense_of_texts_is_refused(
    saved_model: SavedModel, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    model, data = saved_model("bert"), tmp_path / "notes.csv"
    data.write_text("\n".join(["text", *models.WORDS[:9]]) + "\n")
    good(*COMPUTE, model, data, "-o", tmp_path / "a", "--allow-few")
    manifest = tmp_path / "a" / "kfac.json"
    content = json.loads(manifest.read_text())
    content["sources"][0]["data"]["preprocessing"]["configuration"] |= wrong
    manifest.write_text(json.dumps(content))
    said = bad("verify", tmp_path / "a", "--recompute", model, data, code=3)
    assert f"preprocessing.{next(iter(wrong))} must be" in said


def test_estimators_of_the_tests_are_all_there_are() -> None:
    assert set(ESTIMATORS) == set(choices.ESTIMATORS)
