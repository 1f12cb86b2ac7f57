"""``kfac train``: a task vector that leaves the tasks of others alone."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.data import read, take_reading, tell
from kfac_cli.given import check_artifacts
from kfac_cli.options import (
    NAMED,
    data_options,
    json_option,
    model_options,
    write_options,
)
from kfac_cli.train_options import (
    curvature_options,
    head_options,
    optimiser_options,
)

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.network import LabelledExamples, Network
    from kfac_artifacts.sources import Data, ImageExamples, TextExamples
    from kfac_artifacts.task_vector import TaskVector
    from kfac_artifacts.train import Progress, TrainSettings


@click.command("train")
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@write_options
@click.option(
    "--restart", is_flag=True, help="Ignore the checkpoint of an earlier run."
)
@curvature_options
@head_options
@optimiser_options
@click.option("--label-column", default="label", show_default=True)
@data_options
@click.option("--eval-data", type=NAMED, help="Labelled data to measure the result on.")
@click.option("--eval-split", help="Split of that. [default: train]")
@model_options
@json_option
def command(
    model: str,
    data: str,
    output: Path,
    force: bool,
    restart: bool,
    curvatures: tuple[Path, ...],
    exclude_own: tuple[Path, ...],
    head_kind: str | None,
    texts_file: Path | None,
    template: str,
    logit_scale: float | None,
    label_column: str,
    eval_data: str | None,
    eval_split: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a task vector for MODEL on the labelled DATA.

    Training is linearised around MODEL, with a frozen head, and the penalty holds back
    whatever would disturb the tasks in the curvature. Parameters that the curvature
    does not cover are not trained. Without --curvature, or with --lambda 0, nothing is
    held back. A run that was interrupted goes on where it was when it is started again.

    \b
    Example:
        kfac train sentence-transformers/all-MiniLM-L6-v2 tickets.csv \\
            --curvature others -o tau-tickets
        accelerate launch $(which kfac) train ...
    """
    _check_usage(options, curvatures, exclude_own, texts_file, head_kind)
    from kfac_artifacts.places import claimed

    inputs = [model, data, *curvatures, *exclude_own, eval_data, texts_file]
    click.get_current_context().with_resource(
        claimed(output, replace=force, inputs=[i for i in inputs if i is not None])
    )
    check_artifacts([*curvatures, *exclude_own])
    reading = take_reading(options) | {"label_column": label_column}
    found, held_out_data = _read(model, data, eval_data, eval_split, reading)
    from kfac_artifacts.sources import encode_data, load_network, make_head
    from kfac_artifacts.train import TrainingTask, train

    curvature = _curvature(curvatures, exclude_own)
    sources = {name: options.pop(name) for name in ("output_map", "device", "dtype")}
    network = load_network(model, **sources)
    length, prompt = options.pop("max_length"), options.pop("prompt")
    examples = encode_data(found, network, max_length=length, prompt=prompt)
    held_out = None
    if held_out_data is not None:
        held_out = encode_data(held_out_data, network, max_length=length, prompt=prompt)
    settings = _settings(examples, options)
    accounts = _tell(examples, held_out, settings)
    head = make_head(
        network,
        examples,
        head_kind,
        texts=texts_file,
        template=template,
        logit_scale=logit_scale,
        indices=settings.choose(len(examples)),
        prompt=prompt,
    )
    started = time.perf_counter()
    with _bar(settings.steps) as report:
        vector = train(
            network,
            TrainingTask(examples, head, held_out),
            settings,
            curvature=curvature,
            output=output,
            replace=force,
            restart=restart,
            report=report,
        )
    if _is_main():
        seconds = time.perf_counter() - started
        parts = (vector, network, curvature)
        _report(output, *parts, seconds, accounts if as_json else None)


def _read(
    model: str,
    data: str,
    eval_data: str | None,
    eval_split: str | None,
    reading: dict[str, Any],
) -> "tuple[Data, Data | None]":
    from kfac_artifacts.sources import check_model

    check_model(model)
    found = read(data, **reading)
    found.check_classes()
    if eval_data is None:
        return found, None
    reading = reading | {"split": eval_split, "classes": found.labels.classes}
    return found, read(eval_data, **reading)


def _tell(
    examples: "TextExamples | ImageExamples",
    held_out: "TextExamples | ImageExamples | None",
    settings: "TrainSettings",
) -> dict[str, Any]:
    if not _is_main():
        return {}
    accounts = {"read": tell(examples, len(settings.choose(len(examples))))}
    if held_out is not None:
        accounts["read_to_measure"] = tell(held_out, len(held_out))
    return accounts


def _check_usage(
    options: dict[str, Any],
    curvatures: tuple[Path, ...],
    exclude_own: tuple[Path, ...],
    texts_file: Path | None,
    head_kind: str | None,
) -> None:
    if options["steps"] is not None and options["epochs"] is not None:
        raise click.UsageError("give --steps or --epochs, not both")
    if exclude_own and not curvatures:
        raise click.UsageError("--exclude-own goes with --curvature")
    if options["module_weights"] and not curvatures:
        raise click.UsageError("--module-weight goes with --curvature")
    if texts_file is not None and head_kind == "prototypes":
        raise click.UsageError("--class-texts goes with --head texts")


def _curvature(
    curvatures: tuple[Path, ...], exclude: tuple[Path, ...]
) -> "Artifact | None":
    from kfac_artifacts.format import load_artifact
    from kfac_artifacts.merge import merge

    added = [load_artifact(path) for path in curvatures]
    if len(added) < 2 and not exclude:
        return added[0] if added else None
    removed = [load_artifact(path) for path in exclude]
    with console.progress("merging", len(added[0].blocks), "modules") as advance:
        return merge(added, exclude=removed, progress=advance)


def _settings(examples: "LabelledExamples", options: dict[str, Any]) -> "TrainSettings":
    from kfac_artifacts.train import PenaltySettings, TrainSettings

    names = ("weight", "every", "unscaled", "module_weights", "allow_indefinite")
    penalty = PenaltySettings(**{name: options.pop(name) for name in names})
    names = ("steps", "epochs", "batch_size", "limit", "weight_decay")
    usual = TrainSettings.usual(examples, **{name: options.pop(name) for name in names})
    return replace(usual, penalty=penalty, **options)


@contextmanager
def _bar(steps: int) -> "Iterator[Callable[[Progress], None]]":
    """Show steps and loss on stderr."""
    done, first = 0, os.environ.get("RANK", "0") == "0"  # of several processes
    with console.progress("training", steps, "steps", shown=first) as advance:

        def report(progress: "Progress") -> None:
            nonlocal done
            if progress.resumed:
                click.echo(f"going on after step {progress.step}", err=True)
            advance(progress.step - done, f"loss {progress.loss:.4f}")
            done = progress.step

        yield report


def _is_main() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _report(
    output: Path,
    vector: "TaskVector",
    network: "Network",
    curvature: "Artifact | None",
    seconds: float,
    accounts: dict[str, Any] | None,
) -> None:
    """Print what was trained, as JSON with what was read if that is given."""
    sizes = {name: p.numel() for name, p in network.parameters().items()}
    trained = sum(sizes[name] for name in vector.tensors)
    if accounts is not None:
        result = {"output": str(output), "parameters": trained, **vector.metrics}
        about = {"seconds": round(seconds, 1), "warnings": console.SPOKEN.said}
        console.print_json({**result, **about, **accounts})
        return
    click.echo(f"trained {trained:,} of {sum(sizes.values()):,} parameters")
    if curvature is None:
        click.echo("no curvature: every parameter that f depends on was free to move")
    elif trained < sum(sizes.values()):
        click.echo("the others stay as they are: not covered, or not asked for")
    for name, value in vector.metrics.items():
        parts = value if isinstance(value, dict) else {"": value}
        shown = (
            f"{part} {number:.4g}" if isinstance(number, float) else f"{part} {number}"
            for part, number in parts.items()
        )
        click.echo(f"{name}: {', '.join(text.strip() for text in shown)}")
    click.echo(f"{output}: {len(vector.tensors)} tensors, {seconds:.1f} s")
