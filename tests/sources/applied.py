"""Task vectors at random, and what they make of a model."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from kfac_artifacts.sources import load_network
from kfac_artifacts.task_vector import TaskVector
from tests.sources import families

ALPHA = 0.5


def vector_of(
    path: Path, seed: int = 1, only: str = "", output_map: str = "embedding"
) -> TaskVector:
    """A random change of every parameter of the network that f has."""
    network = load_network(str(path), device="cpu", output_map=output_map)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.1 * torch.randn(p.shape, generator=generator)
        for name, p in network.parameters().items()
        if only in name
    }
    return TaskVector(tensors, network.base.restrict(tensors.keys()))


def check_applied(
    source: Path, path: Path, model: torch.nn.Module, vector: TaskVector
) -> None:
    """Load by the model's own class, and compare every entry with the sum."""
    expected, _ = families.reload(source, model)
    find = families.find_parameter(expected)
    with torch.no_grad():
        for name, change in vector.tensors.items():
            parameter = find(name)
            parameter.copy_(parameter.float() + ALPHA * change)
    found, report = families.reload(path, model)
    assert not any(report[k] for k in report if k.endswith("_keys"))
    assert found.config.architectures == [type(model).__name__]
    state = found.state_dict()
    for name, value in expected.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name


def stored(path: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in path.glob("*.safetensors") for n, t in load_file(f).items()}
