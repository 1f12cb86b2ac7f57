"""``kfac train --lora``: an adapter that peft loads and ``kfac apply`` merges."""

import importlib
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from kfac_artifacts.errors import SettingsError, SourceError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.sources import load_examples, load_network
from kfac_artifacts.train import (
    LoraSettings,
    PenaltySettings,
    TrainSettings,
    train_adapter,
)
from kfac_artifacts.train.adapter_probe import probe_adapter
from kfac_artifacts.train.adapter_run import AdapterRun
from kfac_artifacts.train.peft_lora import with_adapter
from kfac_artifacts.tuning import ModelPenalty
from tests.commands import bad, good
from tests.language.saved import save_model
from tests.language.test_apply import AUTO, by_auto
from tests.language.test_texts import TEXTS, message, rows

peft = pytest.importorskip("peft")
NAME = "LlamaForCausalLM"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, texts, prompts with continuations, and conversations."""
    save_model(tmp_path / "model", NAME)
    rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    rows(tmp_path / "p.jsonl", *({"a": text, "b": " it is red"} for text in TEXTS))
    chats: list[Any] = [
        {"talk": [message("user", text), message("assistant", "it is red")]}
        for text in TEXTS
    ]
    rows(tmp_path / "talk.jsonl", *chats)
    curvature = ("compute", tmp_path / "model", tmp_path / "x.jsonl", "--allow-few")
    good(*curvature, "-o", tmp_path / "general")
    return tmp_path


def train(place: Path, out: str, *more: object) -> Any:
    words = ("train", place / "model", place / "p.jsonl", "--text-column", "a")
    usual = ("--text-column", "b", "-o", place / out, "--lora", "r=4,alpha=8")
    steps = ("--steps", 30, "--lr", 0.05, "--batch-size", 4, "--json")
    return json.loads(good(*words, *usual, *steps, *more))


def test_an_adapter_learns_and_is_held_back_loaded_and_merged(place: Path) -> None:
    held = ("--curvature", place / "general")
    measured = ("--eval-data", place / "p.jsonl")
    free = train(place, "free", *held, "--lambda", 0, *measured)
    tight = train(place, "tight", *held, "--lambda", 50, *measured)
    before, after = (free["held_out"][n] for n in ("pretrained", "adapted"))
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    assert tight["held_out"]["pretrained"] == before
    assert 0 < tight["penalty"] < 0.5 * free["penalty"]
    config = json.loads((place / "free/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "model"
    assert str(place) not in (place / "free/README.md").read_text()
    model = by_auto(place / "model", AUTO[NAME][0])
    merged = peft.PeftModel.from_pretrained(model, place / "free").merge_and_unload()
    good("apply", place / "model", place / "free", "-o", place / "out")
    found = by_auto(place / "out", AUTO[NAME][0]).state_dict()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_same_seed_trains_the_same_adapter_however_it_is_divided(
    place: Path,
) -> None:
    from safetensors.torch import load_file

    file = "adapter_model.safetensors"
    train(place, "one")
    train(place, "two", "--accumulate", 2)
    assert "holds nothing" not in bad(
        "train", place / "model", place / "x.jsonl", "--lora", "", "-o", place / "one"
    )
    train(place, "one", "--force")
    one, two = (load_file(place / name / file) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_conversations_train_and_what_is_said_can_be_read(place: Path) -> None:
    talk = ("train", place / "model", place / "talk.jsonl", "--chat-column", "talk")
    said = good(
        *talk,
        "--lora",
        "targets=q_proj+v_proj,rslora",
        "--steps",
        2,
        "-o",
        place / "out",
    )
    assert "an adapter of rank 8" in said
    assert "nothing was held back" in said
    config = json.loads((place / "out/adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert config["use_rslora"]


def test_an_interrupted_training_goes_on_to_the_same_adapter(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("kfac_artifacts.train.checkpoint")
    monkeypatch.setattr(module, "CHECKPOINT_STEPS", 4)
    curvature = load_artifact(place / "general")
    seen: list[Any] = []

    def run(out: str, *, stop: int | None = None, **changed: Any) -> Any:
        network = load_network(place / "model")
        examples = load_examples(
            place / "p.jsonl", network, text_columns=("a", "b"), max_length=32
        )

        def report(progress: Any) -> None:
            seen.append(progress)
            if progress.step == stop and not progress.resumed:
                raise KeyboardInterrupt

        return train_adapter(
            network,
            examples,
            TrainSettings(
                steps=12, batch_size=4, penalty=PenaltySettings("auto"), accumulate=2
            ),
            place / out,
            lora=LoraSettings(r=2, dropout=0.3),
            curvature=curvature,
            report=report,
            **changed,
        )

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop=7)
    seen.clear()
    assert run("cut", resume=True) == whole
    assert (seen[0].step, seen[0].resumed) == (4, True)
    assert whole["lam"] > 0
    assert not (place / "cut.checkpoint").exists()
    for file in ("adapter_model.safetensors", "kfac_adapter.json"):
        assert (place / "whole" / file).read_bytes() == (
            place / "cut" / file
        ).read_bytes()


def test_a_chosen_weight_is_as_stiff_as_the_loss_along_the_change(place: Path) -> None:
    """h of the probe by the formed τ: twice the divergence of a small part of it."""
    network = load_network(place / "model")
    examples = load_examples(place / "x.jsonl", network, max_length=32)
    settings = TrainSettings(steps=20, batch_size=4, penalty=PenaltySettings("auto"))
    curvature = load_artifact(place / "general")
    model = with_adapter(network, LoraSettings(r=2), curvature)
    run = AdapterRun(
        accelerator=Accelerator(device_placement=False),
        network=network,
        model=model,
        examples=examples,
        indices=tuple(range(len(examples))),
        settings=settings,
        penalty=ModelPenalty(model, curvature),
        optimizer=torch.optim.AdamW([torch.zeros(1, requires_grad=True)]),
    )
    start = {name: p.detach().clone() for name, p in run.parameters.items()}
    taken: list[dict[str, torch.Tensor]] = []

    class Noted(torch.optim.AdamW):
        """Keeps where the last step ended."""

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            taken[:] = [{n: p.detach().clone() for n, p in run.parameters.items()}]

    run.optimizer = Noted(run.parameters.values(), lr=0.01)
    found = probe_adapter(run)
    assert all(torch.equal(p, start[name]) for name, p in run.parameters.items())
    batch = examples.batch(range(len(examples)))
    real = batch["predicted"][:, 1:].bool()
    inputs = {n: v for n, v in batch.items() if n != "predicted"}
    step = 0.01

    def logs(share: float) -> torch.Tensor:
        with torch.no_grad():
            for name, p in run.parameters.items():
                left = ".lora_B." in name
                p.copy_(share * taken[0][name] if left else taken[0][name])
            module: Any = network.module.double().eval()
            return module(**inputs).logits[:, :-1].log_softmax(-1)[real]

    at, moved = logs(0.0), logs(step)
    divergence = (at.exp() * (at - moved)).sum(-1).mean()
    assert found.curvature == pytest.approx(2 * float(divergence) / step**2, rel=0.05)
    assert found.drift > 0


def test_a_weight_is_chosen_where_none_is_given(place: Path) -> None:
    held = ("--curvature", place / "general")
    usual = train(place, "usual", *held)
    assert usual["lam"] == train(place, "auto", *held, "--lambda", "auto")["lam"]
    assert usual["lam"] != 1
    assert train(place, "free")["lam"] == 0


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no number": (("--lora", "r=many"), 2, "'r=many' has no number"),
    "unknown": (("--lora", "q=3"), 2, "'q=3' is none of r="),
    "rank": (("--lora", "r=0"), 1, "must be positive"),
    "regime": (
        ("--lora", "", "--regime", "lora"),
        2,
        "--regime does not go with --lora",
    ),
    "targets": (("--lora", "targets=nothing"), 1, "targets of the adapter"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_trained_is_refused(place: Path, case: str) -> None:
    more, code, message_ = WRONG[case]
    words = ("train", place / "model", place / "x.jsonl", "-o", place / "out", *more)
    assert message_ in bad(*words, code=code)
    assert not (place / "out").exists()


def test_what_the_curvature_covers_is_adapted_and_nothing_is_said_beside(
    place: Path,
) -> None:
    few = ("--modules", "*q_proj*", "--modules", "*v_proj*", "-o", place / "few")
    good("compute", place / "model", place / "x.jsonl", "--allow-few", *few)
    words = (sys.executable, "-m", "kfac_artifacts", "train", place / "model")
    more = ("--lora", "r=2", "--curvature", place / "few", "--steps", "2")
    done = subprocess.run(
        [*words, place / "x.jsonl", *more, "-o", place / "out"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "linear maps, those that the curvature covers" in done.stdout
    assert all(
        line.startswith(("x.jsonl", str(place))) for line in done.stderr.splitlines()
    )
    config = json.loads((place / "out/adapter_config.json").read_text())
    assert {t.rpartition(".")[2] for t in config["target_modules"]} == {
        "q_proj",
        "v_proj",
    }
    file = place / "out/adapter_model.safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    good("apply", place / "model", place / "out", "-o", place / "merged")


def test_an_example_without_a_token_to_predict_is_refused_before_the_first_step(
    place: Path,
) -> None:
    network = load_network(place / "model", output_map="lm-fisher")
    texts = [*["the cat"] * 7, "the cat " * 20]
    data = rows(place / "late.jsonl", *({"a": t, "b": " it is red"} for t in texts))
    examples = load_examples(data, network, text_columns=("a", "b"), max_length=12)
    seen: list[Any] = []
    with pytest.raises(SourceError, match="1 of 8 examples have no token to predict"):
        train_adapter(
            network,
            examples,
            TrainSettings(steps=8, batch_size=1),
            place / "out",
            report=seen.append,
        )
    assert not seen


def test_texts_in_rows_are_refused_as_the_model_would_mix_them(place: Path) -> None:
    network = load_network(place / "model")
    alone = load_examples(place / "x.jsonl", network)
    packed = load_examples(place / "x.jsonl", network, max_length=14, pack=True)
    settings = TrainSettings(steps=1)
    for examples, held_out in ((packed, None), (alone, packed)):
        with pytest.raises(SettingsError, match=r"see one another.*without pack=True"):
            train_adapter(network, examples, settings, place / "out", held_out=held_out)


def test_curvature_of_the_norms_alone_holds_no_adapter(place: Path) -> None:
    few = ("--modules", "*norm*", "-o", place / "few")
    good("compute", place / "model", place / "x.jsonl", "--allow-few", *few)
    words = ("train", place / "model", place / "x.jsonl", "-o", place / "out")
    assert "covers no linear map" in bad(
        *words, "--lora", "", "--curvature", place / "few"
    )


def test_a_layer_without_a_block_is_refused(place: Path) -> None:
    words = ("train", place / "model", place / "x.jsonl", "-o", place / "out")
    held = ("--curvature", place / "general", "--lora", "targets=lm_head+q_proj")
    assert "not lm_head.weight" in bad(*words, *held)


def test_conversations_go_with_adapters_alone(place: Path) -> None:
    words = ("train", place / "model", place / "talk.jsonl", "-o", place / "out")
    assert "goes with --lora" in bad(*words, "--chat-column", "talk", code=2)
