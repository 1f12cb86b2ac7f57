"""Task vectors of any parameters, drawn at random, of one model that nobody has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kfac_artifacts.artifact import BaseModel, ParameterInfo
from kfac_artifacts.task_vector import Method, TaskVector, merge_task_vectors
from tests.artifacts import SHA

SHAPES = {
    "up.weight": (8, 6),
    "up.bias": (8,),
    "down.weight": (5, 8),
    "table": (30, 4),
    "conv": (4, 3, 2, 2),
}


def vector(tensors: Mapping[str, Tensor]) -> TaskVector:
    """A task vector of these changes."""
    infos = {n: ParameterInfo(tuple(t.shape), SHA) for n, t in tensors.items()}
    return TaskVector(tensors, BaseModel("toy", None, infos))


def drawn(
    count: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES, seed: int = 0
) -> list[TaskVector]:
    """As many task vectors."""
    generator = torch.Generator().manual_seed(seed)
    return [
        vector({n: torch.randn(s, generator=generator) for n, s in shapes.items()})
        for _ in range(count)
    ]


def merged(vectors: Sequence[TaskVector], method: Method) -> Mapping[str, Tensor]:
    """What a method gives, every factor being 1."""
    return merge_task_vectors(vectors, [1.0] * len(vectors), method).tensors


def assert_same(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 1e-5
) -> None:
    """All parameters agree up to a share of their largest numbers."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        limit = tolerance * float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=limit)
