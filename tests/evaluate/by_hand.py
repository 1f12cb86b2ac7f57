"""Models moved along task vectors, one example at a time, by their whole Jacobian."""

import dataclasses

import torch
from torch import Tensor, nn

from kfac_artifacts.evaluate import EvaluationTask
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.task_vector import ClassifierHead, Head, TaskVector
from tests.tiny_task import CLASSES, tiny_network, tiny_points

DTYPE = torch.float64


def wide_tasks(network: Network, count: int = 2) -> list[EvaluationTask]:
    """Random task vectors that change many answers, of unlike parameters."""
    found = []
    for t in range(count):
        generator = torch.Generator().manual_seed(t)
        names = {n for n in network.parameters() if "unused" not in n}
        names -= {"first.bias"} if t else {"norm.weight"}
        tensors = {
            n: 0.5 * torch.randn(network.shapes[n], generator=generator, dtype=DTYPE)
            for n in sorted(names)
        }
        head = ClassifierHead(
            torch.randn(3, 5, generator=generator, dtype=DTYPE), CLASSES, 10.0
        )
        base, info = network.base.restrict(names), network.output_map.info
        vector = TaskVector(tensors, base, info, head)
        points = tiny_points(t + 10, DTYPE, count=15 + 3 * t)
        found.append(EvaluationTask(f"task {t}", vector, points))
    return found


def network() -> Network:
    return tiny_network(DTYPE)


COMPARED = [2, 1, 1]
"""Examples of the passes in which f of two is compared: together, and alone."""


def passes(network: Network) -> tuple[Network, list[int]]:
    """The same network, and a list to which every forward pass adds its examples."""
    calls: list[int] = []

    def counting(module: nn.Module, batch: Batch) -> Tensor:
        calls.append(len(batch["x"]))
        return network.output_map.apply(module, batch)

    counted = dataclasses.replace(network.output_map, apply=counting)
    return Network(network.module, counted, network.id), calls


def moved_output(
    network: Network,
    task: EvaluationTask,
    i: int,
    moves: list[tuple[float, TaskVector]],
    mode: str,
) -> Tensor:
    """Output of example ``i`` of a task with ``Σ α τ`` added, ``[c]``."""
    batch = task.examples.batch([i])
    state = {n: p.detach() for n, p in network.parameters().items()}
    total = {n: torch.zeros_like(p) for n, p in state.items()}
    for alpha, vector in moves:
        for name, change in vector.tensors.items():
            total[name] = total[name] + alpha * change

    def f(parameters: dict[str, Tensor]) -> Tensor:
        return network.functional_call(parameters, batch)[0]

    if mode == "plain":
        return f({n: p + total[n] for n, p in state.items()})
    jacobian = torch.func.jacrev(f)(state)
    changes = [(j * total[n]).flatten(1).sum(1) for n, j in jacobian.items()]
    return f(state) + torch.stack(changes).sum(0)


def answer(head: Head, output: Tensor) -> int:
    """The class of the largest cosine, by hand."""
    embeddings = head.tensors()["embeddings"].to(output)
    rows = embeddings / embeddings.norm(dim=1, keepdim=True)
    return int((rows @ output / output.norm()).argmax())


def accuracy(
    network: Network,
    task: EvaluationTask,
    moves: list[tuple[float, TaskVector]],
    mode: str,
    head: Head | None = None,
) -> float:
    """Count right answers, by the names of the classes."""
    head = head or task.head or task.vector.head
    assert head is not None
    right = 0
    for i, label in enumerate(task.examples.labels):
        output = moved_output(network, task, i, moves, mode)
        right += head.classes[answer(head, output)] == task.examples.classes[label]
    return right / len(task.examples)
