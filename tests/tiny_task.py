"""A tiny network of our own with labelled points, for tests that train."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
from kfac_artifacts.network import Batch, Network, OutputMap, TensorExamples
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import (
    PenaltySettings,
    TrainingTask,
    TrainSettings,
    prototype_head,
    train,
)
from tests.computed import compute

SETTINGS = TrainSettings(
    steps=80, batch_size=8, learning_rate=0.02, penalty=PenaltySettings(weight=1.0)
)
CLASSES = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class LabelledPoints(TensorExamples):
    """Points with a class each."""

    labels: tuple[int, ...]
    classes: tuple[str, ...] = CLASSES


def tiny_network(dtype: torch.dtype = torch.float32, seed: int = 0) -> Network:
    """Two linear layers with a norm between, and one layer that f never reaches."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential()
    module.add_module("first", nn.Linear(4, 6))
    module.add_module("norm", nn.LayerNorm(6))
    module.add_module("act", nn.Tanh())
    module.add_module("last", nn.Linear(6, 5))
    module.add_module("unused", nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Network(
        module.to(dtype).eval(), OutputMap(NamedConfig("last"), _last), "tiny"
    )


def tiny_points(
    seed: int, dtype: torch.dtype = torch.float32, count: int = 36
) -> LabelledPoints:
    """Points around three centres; another seed is another task."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(3, 4, generator=generator)
    labels = tuple(i % 3 for i in range(count))
    noise = torch.randn(count, 4, generator=generator)
    points = centres[list(labels)] + noise
    return LabelledPoints({"x": points.to(dtype)}, f"points-{seed}", labels)


def tiny_task(network: Network, seed: int, dtype: torch.dtype) -> TrainingTask:
    """A task with a head of prototypes, measured on its own points."""
    points = tiny_points(seed, dtype)
    everything = range(len(points))
    head = prototype_head(network, points, everything, logit_scale=10.0)
    return TrainingTask(points, head, points)


def tiny_curvature(network: Network, points: TensorExamples) -> Artifact:
    """The exact curvature of the network on some points."""
    return compute(
        network, points, count=len(points), cotangents=Cotangents("exact", None, 0)
    )


def train_tiny(**changes: Any) -> TaskVector:
    """Train one tiny task with the curvature of another, unless ``curved=False``."""
    output, report = changes.pop("output", None), changes.pop("report", lambda _: None)
    resume, limits = changes.pop("resume", False), changes.pop("curved", True)
    dtype = changes.pop("dtype", torch.float32)
    network = tiny_network(dtype)
    return train(
        network,
        tiny_task(network, 1, dtype),
        dataclasses.replace(SETTINGS, **changes),
        curvature=tiny_curvature(network, tiny_points(2, dtype)) if limits else None,
        output=output,
        resume=resume,
        report=report,
    )


def _last(module: nn.Module, batch: Batch) -> Tensor:
    hidden = batch["x"]
    for name in ("first", "norm", "act", "last"):
        hidden = module.get_submodule(name)(hidden)
    return nn.functional.normalize(hidden, dim=-1)
