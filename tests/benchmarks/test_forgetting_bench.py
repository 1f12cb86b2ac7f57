"""The benchmark of forgetting: its rule, its words, and how answers are read."""

import importlib
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from tests.language.saved import save_model

ROOT = Path(__file__).parents[2]
BEFORE = {"task": 30.0, "general_loss": 5.0}


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pytest.importorskip("peft")
    return lambda name: importlib.import_module(f"keeping.{name}")


def losses(task: float, general: float) -> dict[str, float]:
    return {"task_loss": task, "general_loss": general}


def test_the_setting_that_forgets_least_is_chosen_of_those_that_learned(
    part: Any,
) -> None:
    choose, Setting = part("choice").choose, part("trials").Setting
    best, slow = Setting("lora", 1e-2), Setting("lora", 1e-4)
    near, far = Setting("kfac", 1e-2, 1.0, 2.0), Setting("kfac", 1e-2, 9.0, 18.0)
    tried = {
        best: losses(1.0, 5.4),
        slow: losses(3.0, 5.0),
        near: losses(1.2, 5.2),  # at the limit: 1 + 5 % of 4
        far: losses(1.3, 5.1),
    }
    assert part("choice").best_loss(tried) == best
    assert choose(tried, pretrained=5.0, best=1.0) == near
    del tried[near]
    assert choose(tried, pretrained=5.0, best=1.0) == best
    assert choose({slow: tried[slow], far: tried[far]}, pretrained=5.0, best=1.0) == far


def test_rates_are_tried_across_the_best_strength(part: Any) -> None:
    choice, sizes, Setting = part("choice"), part("sizes"), part("trials").Setting
    half = (0.5).__mul__
    tried = choice.strengths("kfac", sizes.Sizes(), half, 3e-3)
    assert tried == [Setting("kfac", 3e-3, s, s / 2) for s in (25.0, 125.0, 625.0)]
    others = choice.other_rates(tried[1], sizes.Sizes())
    assert others == [Setting("kfac", rate, 125.0, 62.5) for rate in (1e-3, 1e-2)]
    assert not choice.other_rates(tried[1], sizes.QUICK)
    texts = choice.strengths("replay", sizes.Sizes(), half, 3e-3)
    assert texts == [Setting("replay", 3e-3, n) for n in (1.0, 2.0, 4.0)]


def arms(*shares: float) -> dict[str, list[dict[str, float]]]:
    """What kfac reports if it keeps these shares, one by seed, and inputs a half."""
    lora = {"task": 70.0, "general_loss": 5.4}
    inputs = {"task": 69.0, "general_loss": 5.2}
    kfac_ = [{"task": 68.0, "general_loss": 5.4 - 0.4 * each} for each in shares]
    many = len(shares)
    return {"lora": [lora] * many, "inputs": [inputs] * many, "kfac": kfac_}


def test_what_is_kept_is_a_share_of_what_lora_lost(part: Any) -> None:
    found = part("choice").summary(arms(0.6, 0.9), BEFORE)
    assert found["task_points"] == {"lora": 40.0, "inputs": 39.0, "kfac": 38.0}
    assert found["kept"] == pytest.approx({"inputs": 0.5, "kfac": 0.75})
    assert found["deviations"]["kfac"] == pytest.approx(0.3 / math.sqrt(2))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.5,), "B adds nothing here"),
        ((0.4, 0.5), "B adds nothing here"),
        ((0.9,), "B adds 40 points (one seed)"),
        ((0.9, 0.9), "B adds 40 points:"),
        ((0.2, 0.9), "B adds nothing that seeds do not add"),
    ],
)
def test_it_says_whether_b_adds_anything(
    part: Any, shares: tuple[float, ...], said: str
) -> None:
    choice = part("choice")
    assert choice.verdict(choice.summary(arms(*shares), BEFORE)).startswith(said)


def test_where_lora_lost_nothing_nothing_is_shown(part: Any) -> None:
    choice = part("choice")
    found = choice.summary(arms(0.9), {**BEFORE, "general_loss": 5.4})
    assert found["kept"] == {"inputs": None, "kfac": None}
    assert choice.verdict(found).startswith("LoRA alone lost nothing")


def test_instructions_are_checked_by_what_was_asked(part: Any) -> None:
    is_right = part("instructions").is_right
    capital, sentence = (
        "What is the capital of France?",
        "Write one sentence about a cat.",
    )
    assert is_right(capital, "The capital is Paris.")
    assert not is_right(capital, "oracle")
    assert is_right(sentence, "The cat sat on the mat.")
    assert not is_right(sentence, "cat")


def tiny_writer(part: Any, path: Path) -> tuple[Any, Any]:
    """A tiny model, and what writes with it."""
    save_model(path, "LlamaForCausalLM")
    network = kfac.load_network(path)
    return network, part("writer").Writer(network, network.module)


def test_the_class_is_the_most_probable_of_the_names_token_by_token(
    part: Any, tmp_path: Path
) -> None:
    network, writer = tiny_writer(part, tmp_path)
    names = ["it is red", "it is", "blue"]
    prompts = ["the sky", "a house by the sea is", "red"]
    end = writer.tokenizer.eos_token_id
    named = {n: [*writer.tokenizer(n)["input_ids"], end] for n in names}
    found: list[str] = []
    for prompt in prompts:  # without padding and cache
        ids, left, place = writer.tokenizer(prompt)["input_ids"], dict(named), 0
        while len(left) > 1:
            with torch.no_grad():
                logits = network.module(torch.tensor([ids])).logits[0, -1]
            token = max((t[place] for t in left.values()), key=lambda t: logits[t])
            left = {n: t for n, t in left.items() if t[place] == token}
            ids, place = [*ids, token], place + 1
        found += left
    assert writer.choose(prompts, names) == found


def test_the_name_preferred_is_the_most_probable_as_a_whole(
    part: Any, tmp_path: Path
) -> None:
    network, writer = tiny_writer(part, tmp_path)
    names, found = ["it is red", "it is", "blue", "a house by the sea"], set()
    for prompt in ["the sky", "a house by the sea is", "red", "is it blue it is"]:
        scores = {}
        for name in names:  # without padding and cache
            ids = writer.tokenizer(prompt)["input_ids"]
            start = len(ids)
            ids = [*ids, *writer.tokenizer(name)["input_ids"]]
            ids.append(writer.tokenizer.eos_token_id)
            with torch.no_grad():
                said = network.module(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores[name] = sum(
                said[i - 1, ids[i]].item() for i in range(start, len(ids))
            )
        for offered in itertools.combinations(names, 2):
            best = max(offered, key=lambda name: scores[name])
            assert writer.prefer(prompt, offered) == best
            found.add(best)
    assert len(found) > 1


@pytest.mark.parametrize(
    ("words", "arms", "seeds"),
    [
        ([], None, 3),
        (["--quick"], ["lora", "inputs", "kfac"], 1),
        (["--quick", "--arms", "kfac-both", "--seeds", "2"], ["kfac-both"], 2),
    ],
)
def test_quick_is_two_penalties_and_one_seed_unless_told_otherwise(
    part: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    arms: list[str] | None,
    seeds: int,
) -> None:
    monkeypatch.setattr("sys.argv", ["forgetting.py", *words])
    options = importlib.import_module("forgetting")._options()
    assert options.arms == (arms or [*part("sizes").ARMS])
    assert options.seeds == seeds


def test_every_arm_has_a_style_of_its_own_in_the_figure(part: Any) -> None:
    styles = part("figure").STYLES
    assert styles.keys() == {*part("sizes").ARMS}
    assert len({*styles.values()}) == len(styles)
