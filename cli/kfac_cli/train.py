"""``kfac train``: a task vector that leaves the tasks of others alone."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import train_lora
from kfac_cli.data import ChatDataOptions, EncodeOptions, tell
from kfac_cli.given import check_artifacts
from kfac_cli.groups import given, group, option
from kfac_cli.heads import HeadOptions
from kfac_cli.options import ModelOptions, WriteOptions, json_option
from kfac_cli.parameters import NAMED
from kfac_cli.train_options import (
    CurvatureOptions,
    MethodOptions,
    OptimizerOptions,
    PenaltyOptions,
)
from kfac_cli.train_report import is_main, report_training, training_bar

if TYPE_CHECKING:
    from kfac_artifacts.sources import Data, ImageExamples, TextExamples
    from kfac_artifacts.train import TrainSettings


@dataclass(frozen=True)
class LabelledOptions(ChatDataOptions):
    """How labelled DATA are read, and others of the same classes."""

    label_column: str = option(
        "--label-column",
        default="label",
        show_default=True,
        metavar="NAME",
        help="Column with the class.",
    )
    eval_data: str | None = option(
        "--eval-data",
        type=NAMED,
        metavar="DATA",
        help="Labelled data to measure the result on, linearised and as the ordinary "
        "model that `kfac apply` writes.",
    )
    eval_split: str | None = option(
        "--eval-split", help="Split of these. [default: train]"
    )

    def read_labelled(self, data: str) -> "tuple[Data, Data | None]":
        """Read the data to train on, and those to measure on if there are such."""
        found = self.read(data, labels=self.label_column)
        found.check_classes()
        if self.eval_data is None:
            return found, None
        other = replace(self, split=self.eval_split)
        classes = found.labels.classes
        return found, other.read(
            self.eval_data, labels=self.label_column, classes=classes
        )


@click.command("train")
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@group(WriteOptions)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the checkpoint of an interrupted run.",
)
@click.option(
    "--lora",
    type=train_lora.Lora(),
    help="Train an adapter of peft for a language model instead, by the next tokens of "
    "DATA: r=8, alpha=16, dropout=0, targets=q_proj+v_proj, rslora; divided by commas, "
    "and those not given are as usual. Usual targets are all linear maps but the "
    "output and experts, of those that the curvature covers.",
)
@group(MethodOptions)
@group(CurvatureOptions)
@group(PenaltyOptions)
@group(HeadOptions)
@group(OptimizerOptions)
@group(LabelledOptions)
@group(EncodeOptions)
@group(ModelOptions)
@json_option
def command(
    model: str,
    data: str,
    writing: WriteOptions,
    resume: bool,
    lora: dict[str, Any] | None,
    method: MethodOptions,
    others: CurvatureOptions,
    penalty: PenaltyOptions,
    heading: HeadOptions,
    optimizing: OptimizerOptions,
    reading: LabelledOptions,
    encoding: EncodeOptions,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Train a task vector for MODEL on the labelled DATA.

    Training is linearised around MODEL, with a frozen head, and the penalty holds back
    whatever would disturb the tasks in the curvature. Parameters that the curvature
    does not cover are not trained. Without --curvature, or with --lambda 0, nothing is
    held back. At the end it is said how far the own loss fell, and how much the others
    are predicted to move; and what to change, where λ is too large or too small, or
    the learning rate too high for the ordinary model. What is done is kept beside the
    output, and --resume goes on from there.
    What it is compared with can be chosen by --regime and --penalty.

    With --lora an adapter is trained for a language model that predicts the next token,
    on texts, on continuations of prompts (--text-column twice) or on what the assistant
    says (--chat-column). peft loads it, and `kfac apply` merges it.

    \b
    Example:
        kfac train sentence-transformers/all-MiniLM-L6-v2 tickets.csv \\
            --curvature others -o tau-tickets
        kfac train my-model tickets.csv --regime delta --curvature reference -o tau
        kfac train my-llm talks.jsonl --chat-column messages --lora r=8,alpha=16 \\
            --curvature general -o adapter
        accelerate launch $(which kfac) train ...
    """
    from kfac_artifacts.sources import check_model

    optimizing.check()
    if lora is not None:
        train_lora.run(
            (model, data),
            lora,
            writing=writing,
            others=others,
            penalty=penalty,
            optimizing=optimizing,
            reading=reading,
            held_out=(reading.eval_data, reading.eval_split),
            encoding=encoding,
            loading=loading,
            resume=resume,
            as_json=as_json,
        )
        return
    _check_usage(others, penalty, heading, reading)
    method.check(others)
    more = (reading.eval_data, heading.class_texts, *method.others)
    writing.claim([model, data, *others.inputs, *(x for x in more if x is not None)])
    check_artifacts(others.inputs)
    check_model(model)
    found, held_out_data = reading.read_labelled(data)
    from kfac_artifacts.train import TrainingTask, train

    known = [reading.read(each) for each in method.others]
    curvature = others.load(merged=method.penalty != "kfac-per-task")
    network = loading.load_embedding(model)
    examples, held_out = encoding.encode(found, network), None
    if held_out_data is not None:
        held_out = encoding.encode(held_out_data, network)
    settings = optimizing.settings(examples, penalty)
    accounts = _tell(examples, held_out, settings)
    head = heading.make(
        network,
        examples,
        prompt=encoding.prompt,
        indices=settings.choose(len(examples)),
    )
    started = time.perf_counter()
    with training_bar(settings.steps) as report:
        vector = train(
            network,
            TrainingTask(examples, head, held_out),
            settings,
            curvature=curvature,
            others=[encoding.encode(each, network) for each in known],
            penalty=method.penalty,
            regime=method.make(),
            output=writing.output,
            replace=writing.force,
            resume=resume,
            report=report,
        )
    if is_main():
        seconds = time.perf_counter() - started
        held = method.penalty is not None or bool(curvature)
        about = accounts if as_json else None
        report_training(writing.output, vector, network, seconds, about, held=held)


def _check_usage(
    others: CurvatureOptions,
    penalty: PenaltyOptions,
    head: HeadOptions,
    reading: LabelledOptions,
) -> None:
    if reading.chat_column is not None:
        raise click.UsageError("--chat-column goes with --lora")
    if others.exclude_own and not others.curvatures:
        raise click.UsageError("--exclude-own goes with --curvature")
    if penalty.module_weights and not others.curvatures:
        raise click.UsageError("--module-weight goes with --curvature")
    if given("factors") and not others.curvatures:
        raise click.UsageError("--factors goes with --curvature")
    if head.class_texts is not None and head.head_kind not in {None, "texts"}:
        raise click.UsageError("--class-texts goes with --head texts")


def _tell(
    examples: "TextExamples | ImageExamples",
    held_out: "TextExamples | ImageExamples | None",
    settings: "TrainSettings",
) -> dict[str, Any]:
    if not is_main():
        return {}
    accounts = {"read": tell(examples, len(settings.choose(len(examples))))}
    if held_out is not None:
        accounts["read_to_measure"] = tell(held_out, len(held_out))
    return accounts
