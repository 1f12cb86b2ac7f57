"""How well a language model predicts the tokens of its examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.network import Batch, Examples, Network

PREDICTED, IGNORED = "predicted", -100
MEASURED = 16
"""Examples per pass where nothing is trained."""


@dataclass(frozen=True)
class Predicted:
    """How well tokens are predicted.

    Attributes:
        loss: Mean of ``-log p`` over tokens, in nats.
        accuracy: Share of the tokens that are the most probable ones.
        tokens: Over how many tokens.
    """

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """``e`` to the loss."""
        return math.exp(min(self.loss, 700.0))


def measure_predictions(
    network: Network,
    model: Any,
    examples: Examples,
    accelerator: Accelerator | None = None,
) -> Predicted:
    """Measure how well a model predicts all examples.

    Args:
        network: Where it runs.
        model: The model.
        examples: Encoded examples.
        accelerator: Processes that share the work; None for this one alone.

    Returns:
        Means over all predicted tokens.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=network.device)
    places: Sequence[int] = range(len(examples))
    if accelerator is not None:
        places = places[accelerator.process_index :: accelerator.num_processes]
    with torch.no_grad():
        for start in range(0, len(places), MEASURED):
            batch = examples.batch(places[start : start + MEASURED])
            sums += summed(network, model, batch).double()
    if accelerator is not None:
        sums = accelerator.reduce(sums, "sum")
    loss, right, tokens = sums.tolist()
    return Predicted(loss / tokens, right / tokens, int(tokens))


def labels_of(batch: Batch) -> Tensor:
    """What is predicted, by token; everything else is left out."""
    ids, predicted = batch["input_ids"], batch[PREDICTED].bool()
    return ids.masked_fill(~predicted, IGNORED)


def count_predicted(batch: Batch) -> int:
    """How many tokens of a batch are predicted."""
    return int((labels_of(batch)[:, 1:] != IGNORED).sum())


def summed(network: Network, model: Any, batch: Batch) -> Tensor:
    """Sum of the losses of a batch's tokens, how many were right, and their number."""
    labels = labels_of(batch)[:, 1:].to(network.device)
    logits = logits_of(model, network.to_device(batch))[:, :-1].float()
    loss = cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    counts = labels != IGNORED
    right = ((logits.argmax(-1) == labels) & counts).sum()
    return torch.stack([loss, right.to(loss), counts.sum().to(loss)])


def logits_of(model: Any, batch: Batch) -> Tensor:
    """Logits of all tokens, ``[N, T, V]``."""
    inputs = {name: values for name, values in batch.items() if name != PREDICTED}
    logits: Tensor = model(**inputs).logits
    return logits
