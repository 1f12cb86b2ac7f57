"""What is trained: the last three layers of MiniLM, on texts of random tokens.

Time and memory of a step do not depend on what the texts say.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import assets
import kfac_artifacts as kfac
from kfac_artifacts.network import Batch, Network

MODULES = "encoder.layer.[345].*"
EXAMPLES, TOKENS, CLASSES = 256, 24, 64
WIDTH, LAYERS, HEADS, VOCABULARY = 384, 6, 12, 30522  # of MiniLM
DENSE, NONE = "dense", "none"
WEIGHT = 100.0


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        regime: How the network moves.
        penalty: ``none``, ``dense``, or the recipe of the artifact that is used.
        batch: Texts per step.
        precision: Of products in the passes through the network.
    """

    regime: str
    penalty: str
    batch: int
    precision: str = "float32"


@dataclass(frozen=True, eq=False)
class LabelledTexts(kfac.TensorExamples):
    """Texts with a class each."""

    labels: tuple[int, ...]
    classes: tuple[str, ...]


def network(*, quick: bool) -> Network:
    """MiniLM, or with ``quick`` a model of its shape with random weights."""
    if not quick:
        return kfac.load_network(str(assets.minilm()))
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
    )
    module = BertModel(config, add_pooling_layer=False).eval()
    name = kfac.NamedConfig("org.example/mean")
    return Network(module, kfac.OutputMap(name, _mean), "random weights")


def texts(seed: int) -> LabelledTexts:
    """Texts of one length; their classes mean nothing."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (EXAMPLES, TOKENS)
    tokens = torch.randint(1000, VOCABULARY, shape, generator=drawn)
    tensors = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    labels = tuple(i % CLASSES for i in range(EXAMPLES))
    names = tuple(f"class {i}" for i in range(CLASSES))
    return LabelledTexts(tensors, f"random tokens {seed}", labels, names)


def keep_curvature(model: Network, place: Path, recipes: list[str]) -> None:
    """Compute the curvature of the layers that are trained, and compress it.

    Args:
        model: The network.
        place: Directory of the artifacts, named as the recipes.
        recipes: How to compress it, beside not at all.
    """
    artifact = kfac.compute(model, texts(1), only=(MODULES,), count=64)
    kfac.save_artifact(artifact, place / DENSE)
    for recipe in recipes:
        kfac.save_artifact(artifact, place / recipe, recipe=recipe)


def train(model: Network, arm: Arm, place: Path, steps: int) -> list[float]:
    """Train some steps.

    Args:
        model: The network; it is left as it is.
        arm: How.
        place: Directory of the artifacts.
        steps: How many.

    Returns:
        Seconds of the processor at the end of each.
    """
    examples = texts(0)
    rows = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    head = kfac.ClassifierHead(nn.functional.normalize(rows), examples.classes, 20.0)
    settings = kfac.TrainSettings(
        steps=steps,
        batch_size=arm.batch,
        penalty=kfac.PenaltySettings(WEIGHT),
        modules=(MODULES,),
        precision=arm.precision,
    )
    held = arm.penalty != NONE
    ends: list[float] = []
    kfac.train(
        model,
        kfac.TrainingTask(examples, head),
        settings,
        curvature=kfac.load_artifact(place / arm.penalty, verify=False)
        if held
        else None,
        regime=arm.regime,
        report=lambda _: ends.append(time.process_time()),
    )
    return ends


def _mean(module: nn.Module, batch: Batch) -> Tensor:
    hidden = module(**batch).last_hidden_state.mean(1)
    return nn.functional.normalize(hidden, dim=-1)
