"""``kfac train --lora``: an adapter of ``peft`` for a language model."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import tell
from kfac_cli.given import check_artifacts
from kfac_cli.groups import given
from kfac_cli.train_report import is_main, training_bar

if TYPE_CHECKING:
    from kfac_artifacts.train import LoraSettings
    from kfac_cli.data import ChatDataOptions, EncodeOptions
    from kfac_cli.options import ModelOptions, WriteOptions
    from kfac_cli.train_options import (
        CurvatureOptions,
        OptimizerOptions,
        PenaltyOptions,
    )

NUMBERS = {"r": int, "alpha": float, "dropout": float}
OTHERS = {
    "regime": "--regime",
    "rank": "--rank",
    "alpha": "--lora-alpha",
    "share": "--share",
    "path": "--path",
    "draw": "--draw",
    "penalty": "--penalty",
    "others": "--others",
    "head_kind": "--head",
    "class_texts": "--class-texts",
    "label_column": "--label-column",
    "modules": "--modules",
    "optimizer": "--optimizer",
    "factors": "--factors",
}
"""Options that are about task vectors of classifiers, by their names in click."""


class Lora(click.ParamType[dict[str, Any]]):
    """``r=8,alpha=16,dropout=0.1,targets=q_proj+v_proj,rslora``."""

    name = "SETTINGS"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        """Read it."""
        found: dict[str, Any] = {}
        for part in value.split(","):
            key, _, text = part.strip().partition("=")
            if key in NUMBERS:
                try:
                    found[key] = NUMBERS[key](text)
                except ValueError:
                    self.fail(f"{part!r} has no number", param, ctx)
            elif key == "targets" and text:
                found["targets"] = tuple(text.split("+"))
            elif key == "rslora" and text in {"", "true", "false"}:
                found["rslora"] = text != "false"
            elif part.strip():
                self.fail(
                    f"{part!r} is none of r=, alpha=, dropout=, targets=a+b and rslora",
                    param,
                    ctx,
                )
        return found


def _check(others: "CurvatureOptions") -> None:
    """Refuse options that go with the training of task vectors alone."""
    if others.exclude_own and not others.curvatures:
        raise click.UsageError("--exclude-own goes with --curvature")
    for name, flag in OTHERS.items():
        if given(name):
            raise click.UsageError(f"{flag} does not go with --lora")


def run(
    places: tuple[str, str],
    settings: dict[str, Any],
    *,
    writing: "WriteOptions",
    others: "CurvatureOptions",
    penalty: "PenaltyOptions",
    optimizing: "OptimizerOptions",
    reading: "ChatDataOptions",
    held_out: tuple[str | None, str | None],
    encoding: "EncodeOptions",
    loading: "ModelOptions",
    resume: bool,
    as_json: bool,
) -> None:
    """Train it, and say what came out.

    Args:
        places: MODEL and DATA.
        settings: Those of ``--lora``.
        writing: Where to.
        others: What is preserved.
        penalty: How much.
        optimizing: How long, and how fast.
        reading: How DATA are read.
        held_out: Data to measure on, and their split.
        encoding: How texts become tokens.
        loading: How MODEL is loaded.
        resume: Whether to go on from a checkpoint.
        as_json: Whether to print JSON.
    """
    from kfac_artifacts.sources import check_model

    _check(others)
    model, data = places
    place, split = held_out
    writing.claim([*places, *others.inputs, *([] if place is None else [place])])
    check_artifacts(others.inputs)
    check_model(model)
    found, other = reading.read_any(data), None
    if place is not None:
        other = replace(reading, split=split).read_any(place)
    from kfac_artifacts.train import LoraSettings, train_adapter

    lora = LoraSettings(**settings)
    network = loading.load(model)
    examples = encoding.encode(found, network)
    measured = None if other is None else encoding.encode(other, network)
    chosen = optimizing.settings(examples, penalty)
    accounts = _tell(examples, measured, len(chosen.choose(len(examples))))
    curvature = (
        next(iter(others.load(merged=True)), None) if others.curvatures else None
    )
    started = time.perf_counter()
    with training_bar(chosen.steps) as report:
        metrics = train_adapter(
            network,
            examples,
            chosen,
            writing.output,
            lora=lora,
            curvature=curvature,
            held_out=measured,
            replace=writing.force,
            resume=resume,
            report=report,
        )
    if not is_main():
        return
    seconds = round(time.perf_counter() - started, 1)
    if as_json:
        about = {"seconds": seconds, "warnings": console.SPOKEN.said}
        console.print_json(
            {"output": str(writing.output), **metrics, **about, **accounts}
        )
        return
    for line in _lines(writing.output, lora, metrics, seconds):
        click.echo(line)


def _tell(examples: Any, measured: Any | None, count: int) -> dict[str, Any]:
    """Say what was read; of several processes one does."""
    if not is_main():
        return {}
    read = {"read": tell(examples, count)}
    if measured is None:
        return read
    return {**read, "read_to_measure": tell(measured, len(measured))}


def _lines(
    output: Path, lora: "LoraSettings", metrics: dict[str, Any], seconds: float
) -> Iterator[str]:
    whose = ""
    if lora.targets is None and metrics["adapted"] < metrics["linear_maps"]:
        whose = ", those that the curvature covers"
    yield (
        f"{output}: an adapter of rank {lora.r} for {metrics['adapted']} of "
        f"{metrics['linear_maps']} linear maps{whose}, trained in {seconds:g} s"
    )
    yield (
        f"loss {metrics['loss']:.4f} and {metrics['accuracy']:.1%} of the tokens right "
        "in the last steps"
    )
    if "penalty" in metrics:
        yield (
            f"predicted drift of what is preserved: {metrics['penalty']:.3g}, at λ = "
            f"{metrics['lam']:.3g}"
        )
    else:
        yield "no curvature: nothing was held back"
    for name, found in metrics.get("held_out", {}).items():
        yield (
            f"held out, {name}: loss {found['loss']:.4f}, perplexity "
            f"{found['perplexity']:.2f}, {found['accuracy']:.1%} of {found['tokens']} "
            "tokens right"
        )
