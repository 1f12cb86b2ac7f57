"""Which settings are tried, which one of an arm is chosen, and what that shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from keeping.sizes import LORA, REPLAY, Sizes
from keeping.trials import Setting

NEAR = 0.05
"""Share of what the best learning rate gains in task loss that a setting may lack and
still count as equal."""
LEAST = 0.01
"""Nats per token of general texts: who lost less has lost nothing worth keeping."""


def best_loss(tried: Mapping[Setting, Mapping[str, float]]) -> Setting:
    """The setting with the lowest task loss."""
    return min(tried, key=lambda setting: tried[setting]["task_loss"])


def choose(
    tried: Mapping[Setting, Mapping[str, float]], pretrained: float, best: float
) -> Setting:
    """Choose the setting that forgets least of those that learned as much.

    Args:
        tried: Validation losses by setting.
        pretrained: Task loss before training.
        best: Task loss of LoRA alone at its best learning rate.

    Returns:
        Of the settings whose task loss is at most ``best`` and ``NEAR`` of what that
        gained, the one with the least general loss; if there is none, the one with the
        least task loss.
    """
    limit = best + NEAR * (pretrained - best)
    near = [s for s, found in tried.items() if found["task_loss"] <= limit]
    if not near:
        return best_loss(tried)
    return min(near, key=lambda setting: tried[setting]["general_loss"])


def strengths(
    arm: str, sizes: Sizes, weigh: Callable[[float], float], rate: float
) -> list[Setting]:
    """All strengths of an arm other than LoRA alone.

    Args:
        arm: The arm.
        sizes: Which strengths.
        weigh: Gives the λ of a strength.
        rate: The learning rate.

    Returns:
        The settings.
    """
    if arm == REPLAY:
        return [Setting(arm, rate, float(texts)) for texts in sizes.replays]
    return [Setting(arm, rate, s, weigh(s)) for s in sizes.strengths]


def other_rates(setting: Setting, sizes: Sizes) -> list[Setting]:
    """A setting with every other learning rate; none where that is not searched."""
    rates = [rate for rate in sizes.rates if rate != setting.rate]
    return [replace(setting, rate=rate) for rate in rates] if sizes.cross else []


def summary(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], pretrained: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare what was reported of the chosen settings, over the seeds.

    Args:
        arms: What was reported of every seed, by arm; of LoRA alone, too.
        pretrained: What was reported of the pretrained model.

    Returns:
        ``task_points``: by arm the gain in task accuracy. ``kept``: by arm the share of
        what LoRA alone lost that was kept, in general loss; None where LoRA alone lost
        nothing. ``deviations`` of ``kept`` over the seeds, None of a single one.
    """
    before = pretrained["general_loss"]
    lost = [one["general_loss"] - before for one in arms[LORA]]
    gains = {arm: fmean(one["task"] for one in found) for arm, found in arms.items()}
    kept: dict[str, float | None] = {}
    deviations: dict[str, float | None] = {}
    for arm, found in arms.items():
        if arm == LORA:
            continue
        own = [one["general_loss"] - before for one in found]
        shares = [1 - a / b if b else 0.0 for a, b in zip(own, lost, strict=True)]
        enough = fmean(lost) > LEAST
        kept[arm] = 1 - fmean(own) / fmean(lost) if enough else None
        several = enough and len(shares) > 1
        deviations[arm] = stdev(shares) if several else None
    return {
        "task_points": {arm: gain - pretrained["task"] for arm, gain in gains.items()},
        "kept": kept,
        "deviations": deviations,
    }


def verdict(found: Mapping[str, Any]) -> str:
    """Say in words whether B adds anything to A."""
    kept = found["kept"]
    if not {"inputs", "kfac"} <= kept.keys():
        return "inputs and kfac were not both measured: what B adds is not known."
    without, with_b = kept["inputs"], kept["kfac"]
    if without is None or with_b is None:
        return (
            "LoRA alone lost nothing: there was nothing to keep, and nothing is shown."
        )
    shares = f"{100 * with_b:.0f} % of what LoRA lost is kept with B, and"
    shares += f" {100 * without:.0f} % with B = I"
    if with_b <= without:
        return f"B adds nothing here: {shares}."
    spread = found["deviations"]["kfac"]
    if spread is None:
        return f"B adds {100 * (with_b - without):.0f} points (one seed): {shares}."
    if with_b - without <= spread:
        return f"B adds nothing that seeds do not add as well: {shares}."
    return f"B adds {100 * (with_b - without):.0f} points: {shares}."
