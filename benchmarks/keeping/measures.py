"""What a model can do: the task, and what should stay."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from keeping.instructions import CHECKED, is_right
from keeping.sizes import Sizes
from keeping.texts import OTHER, SEEN, UNSEEN, Texts, asked
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_examples
from kfac_artifacts.train import measure_predictions

PAIR = ("prompt", "answer")
LONGEST = 128
"""Tokens of an instruction with its answer; none is cut off."""
AT_ONCE = 32
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
        task, of the other task, and of instructions.
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
        "other": accuracy(writer, texts, OTHER),
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


def accuracy(writer: "Writer", texts: Texts, task: str) -> float:
    """Share of the rows, in percent, where the model writes the right class.

    It may write names of classes alone, token by token the most probable one, so that a
    model that was never told the names can be right, too.

    Returns:
        The share.
    """
    lines = Path(texts.instructions(task, "test")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    said = writer.choose([row["prompt"] for row in rows], texts.classes(task))
    right = [a == row["class"] for a, row in zip(said, rows, strict=True)]
    return 100 * sum(right) / len(right)


def instructions(writer: "Writer") -> float:
    """Share of the checked instructions that are followed, in percent."""
    said = writer.write([asked(each) for each in CHECKED], ANSWER)
    right = [is_right(i, a) for i, a in zip(CHECKED, said, strict=True)]
    return 100 * sum(right) / len(right)


class Writer:
    """A model that goes on with prompts, greedily.

    Args:
        network: Where it runs.
        model: The model.
    """

    def __init__(self, network: Network, model: Any) -> None:
        from transformers import AutoTokenizer

        directory = network.module.name_or_path
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model, self.device = model, network.device

    def choose(self, prompts: Sequence[str], names: Sequence[str]) -> list[str]:
        """Let it write one of several names behind every prompt."""
        end = self.tokenizer.eos_token_id
        named = [[*self.tokenizer(n)["input_ids"], end] for n in names]
        allowed = next_tokens(named)
        longest = max(map(len, named))

        def may(width: int) -> Callable[[int, torch.Tensor], list[int]]:
            return lambda _, ids: allowed.get(tuple(ids[width:].tolist()), [end])

        return self._all(prompts, longest, may)

    def write(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Let it write what it wants, up to so many tokens."""
        return self._all(prompts, tokens, lambda _: None)

    def _all(
        self, prompts: Sequence[str], tokens: int, may: Callable[[int], Any]
    ) -> list[str]:
        found: list[str] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = [*prompts[start : start + AT_ONCE]]
            batch = self.tokenizer(some, padding=True, return_tensors="pt")
            width = batch["input_ids"].shape[1]
            with torch.no_grad():
                ids = self.model.generate(
                    **batch.to(self.device),
                    max_new_tokens=tokens,
                    do_sample=False,
                    prefix_allowed_tokens_fn=may(width),
                    pad_token_id=self.tokenizer.eos_token_id,
                )
            said = self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
            found += [text.strip() for text in said]
        return found


def next_tokens(sequences: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """What may come next behind every beginning of some sequences."""
    found: dict[tuple[int, ...], list[int]] = {}
    for sequence in sequences:
        for place, token in enumerate(sequence):
            following = found.setdefault(tuple(sequence[:place]), [])
            if token not in following:
                following.append(token)
    return found
