"""What is trained: the last three layers of MiniLM, on texts of random tokens.

Time and memory of a step do not depend on what the texts say.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import assets
import kfac_artifacts as kfac
from kfac_artifacts.estimate import choose_estimator
from kfac_artifacts.network import Batch, Network

MODULES = "encoder.layer.[345].*"
EXAMPLES, TOKENS, CLASSES = 256, 24, 64
WIDTH, LAYERS, HEADS, VOCABULARY = 384, 6, 12, 30522  # of MiniLM
DENSE, NONE = "dense", "none"
TASKS = 4
"""Of how many others ``per-task`` has the curvature."""
WEIGHT = 100.0


@dataclass(frozen=True)
class Held:
    """What a training is held back by.

    Attributes:
        penalty: Its name in ``choices.PENALTIES``; None for none.
        estimator: Of the curvature that it is made of, if it is.
        recipe: How that is compressed, if it is.
        tasks: How many artifacts there are.
        data: Whether it is given the texts of another task.
    """

    penalty: str | None = "kfac"
    estimator: str | None = "kfac"
    recipe: str | None = None
    tasks: int = 1
    data: bool = False


PENALTIES = {
    NONE: Held(None, estimator=None),
    DENSE: Held(),
    "small": Held(recipe="small"),
    "block-8": Held(recipe="block-8"),
    "per-task": Held("kfac-per-task", tasks=TASKS),
    "ekfac": Held(estimator="ekfac"),
    "inputs": Held(estimator="inputs"),
    "diagonal": Held(estimator="diagonal"),
    "tau-jp": Held("tau-jp", estimator=None, data=True),
    "orthoreg": Held("orthoreg", estimator=None),
}
"""What may hold a training back; ``nearest`` costs what ``kfac`` does."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        regime: How the network moves.
        penalty: A key of ``PENALTIES``.
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


def keep_curvature(model: Network, place: Path, penalties: Collection[str]) -> None:
    """Compute the curvature of the layers that are trained, and compress it.

    Args:
        model: The network.
        place: Directory of the artifacts, one for each penalty and task.
        penalties: What will be used, keys of ``PENALTIES``.
    """
    for name in penalties:
        held = PENALTIES[name]
        if held.estimator is None:
            continue
        for task in range(held.tasks):
            artifact = kfac.compute(
                model,
                texts(1 + task),
                only=(MODULES,),
                count=64,
                estimator=choose_estimator(held.estimator),
            )
            kfac.save_artifact(artifact, place / f"{name}-{task}", recipe=held.recipe)


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
    held = PENALTIES[arm.penalty]
    artifacts = [
        kfac.load_artifact(place / f"{arm.penalty}-{task}", verify=False)
        for task in range(held.tasks if held.estimator else 0)
    ]
    ends: list[float] = []
    kfac.train(
        model,
        kfac.TrainingTask(examples, head),
        settings,
        penalty=held.penalty,
        curvature=artifacts or None,
        others=[texts(1)] if held.data else [],
        regime=arm.regime,
        report=lambda _: ends.append(time.process_time()),
    )
    return ends


def _mean(module: nn.Module, batch: Batch) -> Tensor:
    hidden = module(**batch).last_hidden_state.mean(1)
    return nn.functional.normalize(hidden, dim=-1)
