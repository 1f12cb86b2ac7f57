"""``kfac compress``, and recipes of ``compute`` and ``merge``, from files to files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import BaseModel, ParameterInfo
from kfac_artifacts.choices import FORMS
from kfac_artifacts.compress import (
    PRESETS,
    Recipe,
    compression_report,
    save_artifact,
)
from kfac_artifacts.compress.recipes import storages
from kfac_artifacts.format import dense_bytes, load_artifact
from kfac_artifacts.task_vector import TaskVector
from kfac_cli.compress import command
from tests.artifacts import artifact, contents, plain, rich
from tests.commands import bad, good
from tests.compress.small import change, size
from tests.computed import COMPUTE
from tests.models import WORDS, SavedModel


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, a task vector of its model, and what is only a part of one."""
    root = tmp_path_factory.mktemp("made")
    of = rich()
    save_artifact(of, root / "total")
    base = of.provenance.base
    TaskVector(change(), base).save(root / "tau")
    some = base.restrict({"q.weight", "q.bias"})
    TaskVector({n: t for n, t in change().items() if n in some.shapes}, some).save(
        root / "part"
    )
    return root


def test_the_default_is_small(made: Path, tmp_path: Path) -> None:
    said = good("compress", made / "total", "-o", tmp_path / "a")
    good("compress", made / "total", "-o", tmp_path / "b", "--recipe", PRESETS["small"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert "all blocks together: relative Frobenius error" in said
    after = load_artifact(tmp_path / "a", verify=False)
    total = sum(after.factors.nbytes(n) for n in after.factors)
    share = 100 * total / dense_bytes(after)
    assert f"{share:.2f} % of dense float32" in said.splitlines()[-1]
    lines = said.splitlines()
    assert lines[0].split()[:5] == ["module", "kept", "before", "after", "error"]
    assert [line.split()[0] for line in lines[1:9]] == list(after.blocks)


@pytest.mark.parametrize("recipe", ["block-4+int8", "prune-10%", "svd-2+bfloat16"])
def test_a_recipe_does_what_the_library_does(
    made: Path, tmp_path: Path, recipe: str
) -> None:
    good("compress", made / "total", "-o", tmp_path / "a", "--recipe", recipe)
    total = load_artifact(made / "total", verify=False)
    save_artifact(total, tmp_path / "b", recipe=recipe, fitness=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    options = ("--recipe", recipe, "--no-fitness")
    good("compress", made / "total", "-o", tmp_path / "c", *options)
    save_artifact(total, tmp_path / "d", recipe=recipe)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    assert "BAD" not in good("verify", tmp_path / "a")
    found = json.loads(good("inspect", tmp_path / "a", "--json"))
    assert found["bytes"] == sum(module["bytes"] for module in found["modules"])
    assert "q" in good("inspect", tmp_path / "a")


@pytest.mark.parametrize("spelled", ["15kB", "0.015 MB"])
def test_a_largest_size_is_kept(made: Path, tmp_path: Path, spelled: str) -> None:
    said = good("compress", made / "total", "-o", tmp_path / "a", "--max-size", spelled)
    written = size(tmp_path / "a")
    assert 10000 < written <= 15000
    assert "all blocks together" in said
    assert f"; {written / 1000:.1f} kB with all that describes it" in said
    assert "BAD" not in good("verify", tmp_path / "a")


@pytest.mark.parametrize(("spelled", "limit"), [("5%", 0.05), ("0.01", 0.01)])
def test_a_largest_error_is_kept(
    made: Path, tmp_path: Path, spelled: str, limit: float
) -> None:
    options = ("--max-error", spelled, "--json")
    found = json.loads(good("compress", made / "total", "-o", tmp_path / "a", *options))
    assert limit / 10 < found["error"] <= 1.1 * limit
    assert "BAD" not in good("verify", tmp_path / "a")


def test_too_small_a_size_tells_the_least(made: Path, tmp_path: Path) -> None:
    message = bad("compress", made / "total", "-o", tmp_path / "a", "--max-size", "1kB")
    assert message.startswith("Error: 1000 bytes are too few")
    assert list(tmp_path.iterdir()) == []
    least = message.split()[-1]
    good("compress", made / "total", "-o", tmp_path / "a", "--max-size", least)
    assert size(tmp_path / "a") <= int(least.removesuffix("B"))


def test_task_vectors_get_a_column_and_a_line(made: Path, tmp_path: Path) -> None:
    options = ("--task-vector", made / "tau", "--task-vector", made / "part")
    said = good("compress", made / "total", "-o", tmp_path / "a", *options)
    lines = said.splitlines()
    assert lines[0].split()[-2:] == ["tau", "part"]
    rows = {line.split()[0]: line.split() for line in lines[1:9]}
    assert rows["q"][-2:] == [rows["q"][-1]] * 2
    assert rows["k"][-1] == rows["norm"][-1] == "-"
    before, after = (
        load_artifact(made / "total", verify=False),
        load_artifact(tmp_path / "a", verify=False),
    )
    report = compression_report(before, after, [change()])
    assert f"penalty along tau: {report.directions[0]:.3f} of what it was" in lines
    assert f"penalty along part: {rows['q'][-1]} of what it was" in lines


def test_json_says_what_is_in_the_files(made: Path, tmp_path: Path) -> None:
    options = ("--json", "--recipe", "block-4+int8", "--task-vector", made / "tau")
    found = json.loads(good("compress", made / "total", "-o", tmp_path / "a", *options))
    before, after = (
        load_artifact(made / "total", verify=False),
        load_artifact(tmp_path / "a", verify=False),
    )
    assert found["output"] == str(tmp_path / "a")
    assert found["task_vectors"] == [str(made / "tau")]
    for side, of in (("before", before), ("after", after)):
        nbytes = sum(of.factors.nbytes(n) for n in of.factors)
        assert found[f"bytes_{side}"] == nbytes
        assert sum(module[side] for module in found["modules"]) == nbytes
    assert found["bytes_dense_float32"] == dense_bytes(before)
    assert found["bytes_of_files"] == size(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "kfac.json").read_text())
    told = {n: f["loss"] for n, f in manifest["factors"].items() if "loss" in f}
    known = {
        name: {k: v for k, v in loss.items() if v is not None}
        for name, loss in found["losses"].items()
    }
    assert known == told
    spread = found["fitness"]["inverse_error"]
    errors = [loss.get("inverse_error") for loss in told.values()]
    assert spread["worst"] == max(error for error in errors if error is not None)
    assert spread["worst"] == told[spread["factor"]]["inverse_error"]
    assert found["losses"]
    assert found["factors"].keys() == manifest["factors"].keys()
    for name, about in found["factors"].items():
        factor = manifest["factors"][name]
        assert about["structure"] == factor["structure"]["name"]
        assert about["configuration"] == factor["structure"]["configuration"]
        assert about["dim"] == factor["dim"]
    report = compression_report(before, after, [change()])
    assert found["error"] == report.error
    assert found["directions"] == list(report.directions)
    for module, expected in zip(found["modules"], report.modules, strict=True):
        expected_json = {**vars(expected), "directions": list(expected.directions)}
        assert module == expected_json


def test_fitness_has_columns_lines_and_a_verdict(made: Path, tmp_path: Path) -> None:
    options = ("--recipe", "low-rank-4", "-o", tmp_path / "a")
    lines = good("compress", made / "total", *options).splitlines()
    assert lines[0].split()[-3:] == ["inverse", "null", "diagonal"]
    assert any(line.startswith("inverse: worst 0.") for line in lines)
    said = good("inspect", tmp_path / "a")
    assert "inverse of A (MEMIT, GPTQ-like)" in said
    found = json.loads(good("inspect", tmp_path / "a", "--json"))["uses"]
    assert found["penalty"]["fit"] is True
    assert found["input_inverse"]["fit"] is False
    assert "several terms" in found["input_inverse"]["reason"]
    plainly = ("--recipe", "int8", "--no-fitness", "-o", tmp_path / "b")
    save_artifact(plain(), tmp_path / "plain")
    lines = good("compress", tmp_path / "plain", *plainly).splitlines()
    assert lines[0].split()[-1] == "random"
    assert not any(line.startswith(("inverse", "null", "diagonal")) for line in lines)
    assert "unknown: inverse_error" in good("inspect", tmp_path / "b")


def test_without_a_report_nothing_is_compared(made: Path, tmp_path: Path) -> None:
    said = good("compress", made / "total", "-o", tmp_path / "a", "--no-report")
    assert len(said.splitlines()) == 1
    assert "% of dense float32" in said
    found = json.loads(
        good("compress", made / "total", "-o", tmp_path / "b", "--no-report", "--json")
    )
    assert not {"error", "modules", "directions"} & found.keys()
    assert found["bytes_after"] < found["bytes_before"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_there_is_replaced_only_by_force(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "total", tmp_path / "a")
    command_line = ("compress", made / "total", "-o", tmp_path / "a")
    assert "exists already" in bad(*command_line)
    assert contents(tmp_path / "a") == contents(made / "total")
    good(*command_line, "--force")
    assert contents(tmp_path / "a") != contents(made / "total")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_artifact_is_not_replaced_by_what_is_left_of_it(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "total", tmp_path / "a")
    before = contents(tmp_path / "a")
    message = bad("compress", tmp_path / "a", "-o", tmp_path / "a", "--force")
    assert "is the input" in message
    assert contents(tmp_path / "a") == before


def test_shards_are_as_small_as_is_asked(made: Path, tmp_path: Path) -> None:
    options = ("--max-shard-size", "300B", "--recipe", "int8")
    good("compress", made / "total", "-o", tmp_path / "a", *options)
    assert len(list((tmp_path / "a").glob("factors-*.safetensors"))) > 3
    assert "BAD" not in good("verify", tmp_path / "a")


@pytest.mark.parametrize(
    "options",
    [
        ("--recipe", "small", "--max-size", "1MB"),
        ("--recipe", "small", "--max-error", "1%"),
        ("--max-size", "1MB", "--max-error", "1%"),
        ("--max-size", "20 parsecs"),
        ("--max-size", "-1"),
        ("--max-size", "MB"),
        ("--max-size", "1e3"),
        ("--max-error", "-1%"),
        ("--max-error", "some"),
        ("--max-error", "1%%"),
        ("--task-vector",),
        ("--max-shard-size", "0"),
    ],
)
def test_wrong_usage_is_told_before_any_work(
    made: Path, tmp_path: Path, options: tuple[Any, ...]
) -> None:
    message = bad("compress", made / "total", "-o", tmp_path / "a", *options, code=2)
    assert options[0] in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["large", "block-0", "svd-101%", "block-8+int4"])
def test_an_unknown_recipe_is_one_line(made: Path, tmp_path: Path, recipe: str) -> None:
    for words in (
        ("compress", made / "total"),
        ("merge", made / "total", made / "total"),
        ("compute", tmp_path / "no-model", tmp_path / "no-data"),
    ):
        message = bad(*words, "-o", tmp_path / "a", "--recipe", recipe)
        assert len(message.splitlines()) == 1
        assert message.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_artifact_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "total", tmp_path / "bad")
    file = tmp_path / "bad" / "factors.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    message = bad("compress", tmp_path / "bad", "-o", tmp_path / "a", code=3)
    assert "factors.safetensors was damaged" in message
    (tmp_path / "empty").mkdir()
    message = bad("compress", tmp_path / "empty", "-o", tmp_path / "a", code=3)
    assert "is no artifact" in message
    options = ("--task-vector", made / "total")
    message = bad("compress", made / "total", "-o", tmp_path / "a", *options, code=3)
    assert "is no task vector" in message
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "told"), [("q.bias", "q.bias"), ("else", "share no parameter")]
)
def test_a_task_vector_of_another_model_is_refused(
    made: Path, tmp_path: Path, name: str, told: str
) -> None:
    other = BaseModel("other", None, {name: ParameterInfo((16,), "ab" * 32)})
    TaskVector({name: torch.ones(16)}, other).save(tmp_path / "tau")
    options = ("--task-vector", tmp_path / "tau")
    message = bad("compress", made / "total", "-o", tmp_path / "a", *options)
    assert message.startswith("Error: ")
    assert told in message
    assert not (tmp_path / "a").exists()


def test_merge_takes_a_recipe(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_artifact(artifact(seed, dtype=torch.float32), tmp_path / f"{seed}")
    words = ("merge", tmp_path / "1", tmp_path / "2", "-o")
    good(*words, tmp_path / "whole")
    result = json.loads(good(*words, tmp_path / "small", "--recipe", "int8", "--json"))
    assert result["tasks"] == 2
    save_artifact(
        load_artifact(tmp_path / "whole", verify=False),
        tmp_path / "same",
        recipe="int8",
    )
    whole, small, same = (
        load_artifact(tmp_path / name, verify=False)
        for name in ("whole", "small", "same")
    )
    assert small.provenance.losses.keys() == same.provenance.losses.keys()
    for name, factor in small.factors.items():
        torch.testing.assert_close(factor.to_dense(), same.factors[name].to_dense())
        assert small.factors.storage(name) == "int8"
    assert small.provenance.merge_errors == whole.provenance.merge_errors
    assert "BAD" not in good("verify", tmp_path / "small")
    message = bad(
        *words, tmp_path / "x", "--recipe", "int8", "--storage", "float32", code=2
    )
    assert "--storage" in message
    assert not (tmp_path / "x").exists()


def test_compute_takes_a_recipe(saved_model: SavedModel, tmp_path: Path) -> None:
    lines = [f"{WORDS[i]} {WORDS[2 * i + 1]}" for i in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(["text", *lines]) + "\n")
    words = (*COMPUTE, saved_model("bert"), tmp_path / "data.csv", "--data-id", "d")
    good(*words, "-o", tmp_path / "whole")
    good(*words, "-o", tmp_path / "small", "--recipe", "block-2+int8")
    save_artifact(
        load_artifact(tmp_path / "whole", verify=False),
        tmp_path / "same",
        recipe="block-2+int8",
    )
    small, same = contents(tmp_path / "small"), contents(tmp_path / "same")
    assert small["factors.safetensors"] == same["factors.safetensors"]
    losses = load_artifact(tmp_path / "small", verify=False).provenance.losses
    assert losses == load_artifact(tmp_path / "same", verify=False).provenance.losses
    assert "BAD" not in good(
        "verify", tmp_path / "small", "--model", saved_model("bert")
    )
    options = ("--recipe", "int8", "--storage", "bfloat16")
    message = bad(*words, "-o", tmp_path / "x", *options, code=2)
    assert "--storage" in message


LISTED = {
    "low-rank-R, -P%": ("low-rank-3", "low-rank-5%"),
    "low-rank-trace-P%": ("low-rank-trace-5%",),
    "svd-R, -P%, -trace-P%": ("svd-3", "svd-5%", "svd-trace-5%"),
    "block-K ": ("block-3",),
    "block-K-correlated": ("block-3-correlated",),
    "prune-P%": ("prune-5%",),
    "diagonal ": ("diagonal",),
    "small, tiny": tuple(PRESETS),
    ", ".join(PRESETS.values()): tuple(PRESETS.values()),
    "int8, bfloat16, float16, float32": storages(),
    "block-8+int8": ("block-8+int8",),
}


def test_the_help_lists_every_kind_of_recipe() -> None:
    text = command.help
    names = [name for place in LISTED if place in text for name in LISTED[place]]
    assert names == [name for several in LISTED.values() for name in several]
    for name in [*names, *re.findall(r"--recipe (\S+)", text)]:
        Recipe.parse(name)
    for form in FORMS.values():  # there are no others
        assert any(form.parse(name) for name in names)
