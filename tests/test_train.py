"""Training: against plain autograd, after a kill, and from the command line."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from kfac_artifacts.errors import (
    CoverageError,
    FactorError,
    FormatError,
    MismatchError,
    PlaceError,
    SettingsError,
)
from kfac_artifacts.factors import Dense
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import (
    PenaltySettings,
    TrainingProgress,
    TrainSettings,
    class_texts,
    prototype_head,
    read_texts,
    steps_of,
    text_head,
    train,
)
from tests.commands import kfac
from tests.computed import COMPUTE
from tests.running import PATIENCE, Process, finish
from tests.tiny_task import (
    SETTINGS,
    tiny_curvature,
    tiny_network,
    tiny_points,
    tiny_task,
    train_tiny,
)

FILES = ("task_vector.json", "task_vector.safetensors")


def _stop_at(step: int) -> Callable[[TrainingProgress], None]:
    def report(progress: TrainingProgress) -> None:
        if progress.step == step and not progress.resumed:
            raise KeyboardInterrupt

    return report


def _assert_same_files(a: Path, b: Path) -> None:
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_steps_are_those_of_adamw_on_loss_and_penalty() -> None:
    dtype = torch.float64
    network = tiny_network(dtype)
    task = tiny_task(network, 1, dtype)
    curvature = tiny_curvature(network, tiny_points(2, dtype))
    settings = dataclasses.replace(
        SETTINGS, steps=5, penalty=PenaltySettings(3.0, every=2)
    )
    found = train(network, task, settings, curvature=curvature).tensors

    parameters = network.parameters()
    start = {n: parameters[n].detach() for n in found}
    tau = {n: torch.zeros_like(v, requires_grad=True) for n, v in start.items()}
    optimizer = torch.optim.AdamW(tau.values(), weight_decay=settings.weight_decay)
    G = _gramian(curvature, tau)
    for step in range(settings.steps):
        chosen = settings.batch(step, tuple(range(36)))
        batch = task.examples.batch(chosen)
        jacobian = torch.func.jacrev(lambda p, b=batch: network.functional_call(p, b))(
            start
        )
        output = network(batch).detach()
        for name, J in jacobian.items():
            output = output + J.flatten(2) @ tau[name].flatten()
        targets = torch.tensor([task.examples.labels[i] for i in chosen])
        loss = cross_entropy(task.head.logits(output), targets)
        if step % 2 == 0:
            flat = torch.cat([tau[n].flatten() for n in tau])
            loss = loss + 2 * 3.0 * flat @ G @ flat
        optimizer.param_groups[0]["lr"] = settings.rate(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in tau.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-6, atol=1e-9)


def _gramian(curvature: Any, tau: dict[str, torch.Tensor]) -> torch.Tensor:
    """The matrix of the penalty, as the Hessian of the artifact's own estimate."""
    sizes = [t.numel() for t in tau.values()]

    def drift(flat: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(tau, flat.split(sizes), strict=True))
        shaped = {n: part.view(tau[n].shape) for n, part in parts.items()}
        values = [
            (W * block.product(W, curvature.factors)).sum()
            for block in curvature.blocks.values()
            for W in [block.gather(shaped)]
        ]
        return torch.stack(values).sum()

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    return 0.5 * torch.func.hessian(drift)(zero)


def test_penalty_lowers_the_drift_and_is_recorded() -> None:
    free, held = (
        train_tiny(penalty=PenaltySettings(0.0)),
        train_tiny(penalty=PenaltySettings(10.0)),
    )
    assert held.metrics["penalty"] < 0.2 * free.metrics["penalty"]
    assert free.metrics["loss"] < held.metrics["loss"]


def test_training_learns_the_task() -> None:
    vector = train_tiny(penalty=PenaltySettings(0.0), curved=False)
    held_out = vector.metrics["held_out"]
    assert isinstance(held_out, dict)
    assert held_out["linear"] > held_out["pretrained"]
    assert "penalty" not in vector.metrics


def test_parameters_that_f_does_not_reach_are_not_trained() -> None:
    assert not any(
        "unused" in name for name in train_tiny(steps=1, curved=False).tensors
    )


def test_parameters_without_curvature_never_move() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    blocks = {n: b for n, b in curvature.blocks.items() if n != "last"}
    covered = {p for block in blocks.values() for p in block.parameters}
    provenance = dataclasses.replace(
        curvature.provenance, base=curvature.provenance.base.restrict(covered)
    )
    part = dataclasses.replace(curvature, blocks=blocks, provenance=provenance)
    settings = dataclasses.replace(SETTINGS, steps=2)
    vector = train(
        network, tiny_task(network, 1, torch.float32), settings, curvature=part
    )
    assert set(vector.tensors) == covered


def test_part_of_a_block_may_be_trained_alone() -> None:
    vector = train_tiny(steps=3, modules=("last.weight",))
    assert set(vector.tensors) == {"last.weight"}
    assert vector.metrics["penalty"] >= 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing*", "the model has none"), ("unused*", "the model has none")],
)
def test_pattern_that_fits_nothing_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(CoverageError, match=message):
        train_tiny(modules=(pattern,))


def test_pattern_that_curvature_does_not_cover_is_refused() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    blocks = {"last": curvature.blocks["last"]}
    base = curvature.provenance.base.restrict({"last.weight", "last.bias"})
    provenance = dataclasses.replace(curvature.provenance, base=base)
    part = dataclasses.replace(curvature, blocks=blocks, provenance=provenance)
    settings = dataclasses.replace(SETTINGS, modules=("first*",))
    with pytest.raises(CoverageError, match="the curvature does not cover any"):
        train(network, tiny_task(network, 1, torch.float32), settings, curvature=part)


def test_curvature_of_another_model_is_refused_with_all_differences() -> None:
    network, other = tiny_network(), tiny_network(seed=9)
    curvature = tiny_curvature(other, tiny_points(2))
    named = dataclasses.replace(curvature.provenance.output_map, name="first")
    provenance = dataclasses.replace(curvature.provenance, output_map=named)
    wrong = dataclasses.replace(curvature, provenance=provenance)
    with pytest.raises(
        MismatchError, match=r"(?s)other values in .*output map is first"
    ):
        train(network, tiny_task(network, 1, torch.float32), SETTINGS, curvature=wrong)


def test_module_weight_of_zero_frees_a_module() -> None:
    held = train_tiny()
    freed = train_tiny(penalty=PenaltySettings(1.0, module_weights={"*": 0.0}))
    assert freed.metrics["loss"] < held.metrics["loss"]


def test_divergence_says_so() -> None:
    with pytest.raises(SettingsError, match="diverged: the penalty of first"):
        train_tiny(learning_rate=1e30)
    with pytest.raises(SettingsError, match="diverged: the loss"):
        train_tiny(learning_rate=1e30, curved=False)


def test_interrupted_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    train_tiny(output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "cut", report=_stop_at(70))
    assert not (tmp_path / "cut").exists()
    seen: list[TrainingProgress] = []
    train_tiny(output=tmp_path / "cut", resume=True, report=seen.append)
    assert (seen[0].step, seen[0].resumed) == (50, True)
    assert not (tmp_path / "cut.checkpoint").exists()
    _assert_same_files(tmp_path / "whole", tmp_path / "cut")


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "tau"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=output, report=_stop_at(60))
    changes = {"learning_rate": 0.01, "penalty": PenaltySettings(2.0)}
    with pytest.raises(MismatchError) as error:
        train_tiny(output=output, resume=True, **changes)
    assert "learning_rate was 0.02, is 0.01" in str(error.value)
    assert "lam was 1.0, is 2.0" in str(error.value)
    assert "begin without --resume" in str(error.value)
    train_tiny(output=output, **changes)
    assert TaskVector.load(output).settings["lam"] == 2.0
    assert not (tmp_path / "tau.checkpoint").exists()


def test_what_happens_to_a_checkpoint_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "tau"
    train_tiny(output=output, steps=1, resume=True)
    assert "tau.checkpoint to go on from; beginning" in caplog.text
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "new", report=_stop_at(60))
    assert not caplog.text
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=tmp_path / "new", report=_stop_at(1))
    assert "beginning afresh, although" in caplog.text
    assert "--resume goes on" in caplog.text
    caplog.clear()
    seen: list[TrainingProgress] = []
    train_tiny(output=tmp_path / "new", resume=True, report=seen.append)
    assert seen[0].step == 50  # what was there stays until there is more
    assert not caplog.text


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "tau"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output=output, report=_stop_at(60))
    file = tmp_path / "tau.checkpoint" / "step-50.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="is damaged"):
        train_tiny(output=output, resume=True)


def test_taken_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "tau").mkdir()
    (tmp_path / "tau" / "file").touch()
    with pytest.raises(PlaceError, match="exists already"):
        train_tiny(output=tmp_path / "tau")


SCRIPT = """
import sys, time
from pathlib import Path
from tests.tiny_task import train_tiny

def report(progress):
    if len(sys.argv) > 2 and progress.step > 60:
        time.sleep(600)  # to be killed here

train_tiny(output=Path(sys.argv[1]), resume=True, report=report)
"""


@pytest.mark.processes
def test_killed_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    def run(*arguments: str) -> Process:
        return Process(["-c", SCRIPT, *arguments])

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    with run(str(cut), "to be killed") as victim:
        # a process of its own, too: other numbers of threads may round otherwise
        ((status, _, stderr),) = finish([run(str(whole))])
        assert status == 0, stderr
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "cut.checkpoint" / "checkpoint.json").exists():
            assert time.monotonic() < deadline
            assert victim.poll() is None
            time.sleep(0.05)
    assert victim.poll() == -signal.SIGKILL
    ((status, _, stderr),) = finish([run(str(cut))])
    assert status == 0, stderr
    _assert_same_files(whole, cut)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]


def test_batches_follow_from_seed_and_step_alone() -> None:
    indices = tuple(range(10, 30))
    settings = TrainSettings(batch_size=6, seed=3)
    epoch = [i for step in range(3) for i in settings.batch(step, indices)]
    assert len(set(epoch)) == 18
    assert set(epoch) <= set(indices)
    again = TrainSettings(batch_size=6, seed=3)
    assert [again.batch(s, indices) for s in (7, 2)] == [
        settings.batch(s, indices) for s in (7, 2)
    ]
    assert settings.batch(0, indices) != settings.batch(3, indices)
    assert settings.batch(0, indices) != TrainSettings(batch_size=6).batch(0, indices)


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert sorted(TrainSettings(batch_size=64).batch(5, (3, 4, 9))) == [3, 4, 9]


def test_limit_chooses_by_the_seed() -> None:
    chosen = TrainSettings(limit=5, seed=1).choose(40)
    assert len(set(chosen)) == 5
    assert chosen == TrainSettings(limit=5, seed=1).choose(40)
    assert chosen != TrainSettings(limit=5, seed=2).choose(40)
    assert TrainSettings(limit=50).choose(3) == [0, 1, 2]


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainSettings(steps=100, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert TrainSettings(steps=9000).rate(499) == TrainSettings().learning_rate
    assert TrainSettings(steps=2, warmup=5).rate(1) == TrainSettings().learning_rate


def test_penalty_factor_makes_up_for_left_out_steps() -> None:
    settings = PenaltySettings(2.0, every=3)
    assert [settings.factor(s) for s in range(4)] == [6.0, 0.0, 0.0, 6.0]
    plain = dataclasses.replace(settings, unscaled=True)
    assert [plain.factor(s) for s in range(4)] == [2.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"limit": 1},
        {"weight_decay": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        TrainSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1.0},
        {"weight": float("nan")},
        {"every": 0},
        {"module_weights": {"x": -1.0}},
    ],
)
def test_penalties_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        PenaltySettings(**wrong)


def test_epochs_are_turned_into_steps() -> None:
    assert steps_of(2.0, 100, 32) == 6
    assert steps_of(0.01, 100, 32) == 1
    assert steps_of(3.0, 10, 32) == 3


def test_class_names_become_texts() -> None:
    texts = class_texts(["dark_red", "sea-green"], "a photo of a {}")
    assert texts == ["a photo of a dark red", "a photo of a sea green"]
    with pytest.raises(SettingsError, match=r"no \{\}"):
        class_texts(["a"], "a photo")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", '{"b": "two", "a": "one", "c": "more"}'),
        ("t.json", '["one", "two"]'),
        ("t.txt", "one\ntwo\n"),
    ],
)
def test_texts_are_read_by_class(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name, ["a", "b"]) == ["one", "two"]


@pytest.mark.parametrize("content", ['{"a": "one"}', '["one"]', "[1, 2]", "{"])
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(SettingsError):
        read_texts(tmp_path / "t.json", ["a", "b"])


def test_classes_with_the_same_text_are_refused() -> None:
    with pytest.raises(SettingsError, match="classes 1 and 2 of 2 the same"):
        text_head(torch.ones(2, 3), ["a", "b"], logit_scale=1.0)


def test_prototypes_are_means_of_normalised_outputs() -> None:
    network, points = tiny_network(), tiny_points(1)
    head = prototype_head(
        network, points, range(36), logit_scale=1.0, batch_size=7
    ).embeddings
    outputs = network({"x": points.tensors["x"]}).detach()
    for label in range(3):
        mean = outputs[label::3].mean(0)
        torch.testing.assert_close(head[label], mean / mean.norm())


def test_class_without_example_has_no_prototype() -> None:
    with pytest.raises(SettingsError, match="2 of 3 classes: none of the 2"):
        prototype_head(tiny_network(), tiny_points(1), [0, 3], logit_scale=1.0)


TEXTS = {
    "first": ["the cat runs", "a dog sings", "cat in red", "dog is good"],
    "second": ["the bird runs", "a fish sings", "bird in red", "fish is good"],
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    rows = [f"{text},{label}" for label, texts in TEXTS.items() for text in texts]
    path.write_text("\n".join(["text,label", *rows, ""]))
    return path


def _kfac(*arguments: object) -> str:
    result = kfac(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_line_from_curvature_to_a_merged_model(
    tmp_path: Path, table: Path, saved_model: Callable[[str], Path]
) -> None:
    model, tau, merged = saved_model("bert"), tmp_path / "tau", tmp_path / "merged"
    _kfac(*COMPUTE, model, table, "-o", tmp_path / "curvature")
    trained = _kfac(
        *("train", model, table, "--curvature", tmp_path / "curvature", "-o", tau),
        *("--head", "prototypes", "--steps", 20, "--lr", 0.01, "--batch-size", 4),
        *("--optimizer", "adamw8bit", "--regime", "linearised", "--penalty", "kfac"),
        *("--lambda", 0.1, "--every", 2, "--eval-data", table, "--json"),
        *("--module-weight", "*layer.1*=0.5", "--modules", "*layer.1*"),
    )
    result = json.loads(trained)
    assert result["steps"] == 20
    assert result["held_out"]["linear"] > result["held_out"]["pretrained"]
    assert all("layer.1" in name for name in TaskVector.load(tau).tensors)
    plot = tmp_path / "plot.png"
    found = _kfac(
        *("evaluate", model, f"{tau}={table}", "--sweep", "0:1:0.5", "--json"),
        *("--method", "sum"),
        *("--plot", plot),
    )
    linear = json.loads(found)["modes"]["linear"]
    assert linear["alphas"] == [0.0, 0.5, 1.0]
    assert linear["absolute"][0] == linear["pretrained"]
    assert linear["absolute"][2] == linear["individual"]
    assert linear["individual"] == result["held_out"]["linear"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    _kfac("apply", model, tau, "--alpha", 0.5, "--method", "sum", "-o", merged)
    before, after = AutoModel.from_pretrained(model), AutoModel.from_pretrained(merged)
    moved = (0.5 * TaskVector.load(tau)).add_to(before.state_dict())
    for name, value in after.state_dict().items():
        if name.startswith("pooler"):  # not in the checkpoint, so random
            continue
        torch.testing.assert_close(value, moved[name])
    assert (merged / "tokenizer.json").read_bytes() == (
        model / "tokenizer.json"
    ).read_bytes()


def test_command_line_refuses_what_does_not_go_together(
    tmp_path: Path, table: Path, saved_model: Callable[[str], Path]
) -> None:
    start = ["train", str(saved_model("bert")), str(table), "-o", str(tmp_path / "tau")]
    for wrong, message in {
        ("--steps", "3", "--epochs", "2"): "not both",
        ("--exclude-own", "x"): "goes with --curvature",
        ("--module-weight", "a"): "PATTERN=NUMBER",
    }.items():
        result = kfac(*start, *wrong)
        assert result.exit_code == 2
        assert message in result.output
    result = kfac(*start, "--curvature", tmp_path / "none")
    assert result.exit_code == 3
    assert not (tmp_path / "tau").exists()


def test_curvature_that_rewards_drift_is_refused_unless_it_is_allowed() -> None:
    network = tiny_network()
    curvature = tiny_curvature(network, tiny_points(2))
    (name, *_) = curvature.blocks["last"].factors
    bad = Dense(curvature.factors[name].to_dense() - 100 * torch.eye(7))
    curvature = dataclasses.replace(curvature, factors={**curvature.factors, name: bad})
    task = tiny_task(network, 1, torch.float32)
    settings = dataclasses.replace(SETTINGS, steps=1)
    with pytest.raises(FactorError, match="--allow-indefinite"):
        train(network, task, settings, curvature=curvature)
    for free in (PenaltySettings(allow_indefinite=True), PenaltySettings(0.0)):
        settings = dataclasses.replace(settings, penalty=free)
        train(network, task, settings, curvature=curvature)
