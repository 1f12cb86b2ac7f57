"""What a model can do: the task, and what should stay."""

import json
from pathlib import Path
from typing import Any

from keeping.instructions import CHECKED, is_right
from keeping.sizes import Sizes
from keeping.texts import FOUR, OTHERS, SEEN, UNSEEN, Texts, asked, four
from keeping.writer import Writer
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_examples
from kfac_artifacts.train import measure_predictions

PAIR = ("prompt", "answer")
LONGEST = 128
"""Tokens of an instruction with its answer; none is cut off."""
ANSWER = 24
"""Tokens of a free answer."""


def choosing(network: Network, model: Any, texts: Texts, sizes: Sizes) -> Any:
    """Measure on validation data what settings are chosen by.

    Returns:
        ``task_loss`` in nats per token of an answer, and ``general_loss`` in nats per
        token of the unseen kind of texts.
    """
    return {
        "task_loss": task_loss(network, model, texts, "dev"),
        "general_loss": general_loss(network, model, texts, sizes, UNSEEN, "dev"),
    }


def reported(network: Network, model: Any, texts: Texts, sizes: Sizes) -> Any:
    """Measure on test data.

    Returns:
        The same two; ``general`` by kind of text; and in percent the accuracy of the
        task, of the other tasks, and of instructions.
    """
    kinds = (*SEEN, UNSEEN)
    general = {
        kind: general_loss(network, model, texts, sizes, kind, "test") for kind in kinds
    }
    writer = Writer(network, model)
    return {
        "task_loss": task_loss(network, model, texts, "test"),
        "general_loss": general[UNSEEN],
        "general": general,
        "task": accuracy(writer, texts, texts.task),
        "others": {task: accuracy(writer, texts, task) for task in OTHERS},
        "instructions": instructions(writer),
    }


def task_loss(network: Network, model: Any, texts: Texts, split: str) -> float:
    """Nats per token of the task's answers."""
    path = texts.instructions(texts.task, split)
    rows = load_examples(path, network, text_columns=PAIR, max_length=LONGEST)
    return measure_predictions(network, model, rows).loss


def general_loss(
    network: Network, model: Any, texts: Texts, sizes: Sizes, kind: str, split: str
) -> float:
    """Nats per token of general texts."""
    path = texts.general(kind, split)
    rows = load_examples(path, network, text_columns="text", max_length=sizes.tokens)
    return measure_predictions(network, model, rows).loss


def accuracy(writer: Writer, texts: Texts, task: str) -> float:
    """Share of the rows, in percent, where the model writes the right class.

    It may write names of classes alone, token by token the most probable one, so that a
    model that was never told the names can be right, too. Of ``FOUR`` it is asked which
    of four names it finds the most probable as a whole.

    Returns:
        The share.
    """
    lines = Path(texts.instructions(task, "test")).read_text().splitlines()
    rows, classes = [json.loads(line) for line in lines], texts.classes(task)
    if task == FOUR:
        said = [writer.prefer(row["prompt"], four(row, classes)) for row in rows]
    else:
        said = writer.choose([row["prompt"] for row in rows], classes)
    right = [a == row["class"] for a, row in zip(said, rows, strict=True)]
    return 100 * sum(right) / len(right)


def instructions(writer: Writer) -> float:
    """Share of the checked instructions that are followed, in percent."""
    said = writer.write([asked(each) for each in CHECKED], ANSWER)
    right = [is_right(i, a) for i, a in zip(CHECKED, said, strict=True)]
    return 100 * sum(right) / len(right)
