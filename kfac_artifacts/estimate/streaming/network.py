"""A network whose weights stay in files, and come into memory for a while."""

from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from kfac_artifacts.artifact import BaseModel, ParameterInfo
from kfac_artifacts.errors import SettingsError, SourceError
from kfac_artifacts.network import Batch, Network, parameter_info


class Weights(Protocol):
    """Where weights are read from."""

    def read(self, name: str) -> Tensor:
        """Read a parameter: on the CPU, as the network has it in float32."""


@dataclass(eq=False)
class StreamedNetwork(Network):
    """A network whose parameters are on the meta device until they are asked for.

    ``compute`` takes it as any other, and has one block of it in memory at a time.

    Attributes:
        weights: Where its parameters are read from.
        place: Where it computes.
    """

    weights: Weights = field(kw_only=True)
    place: torch.device = field(kw_only=True)

    @property
    @override
    def device(self) -> torch.device:
        return self.place

    @override
    def _output(self, module: nn.Module, batch: Batch) -> Tensor:
        """Refuse to compute f of weights that are not there.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(
            f"the weights of {self.id} stay in their files, and only compute goes "
            "through them; what evaluates f itself, as packing texts into rows "
            "(--pack) does, needs load_network (no --stream)"
        )

    def evaluating(self) -> AbstractContextManager[None]:
        """Switch dropout off for a while, for all parts."""
        return self._evaluating()

    @cached_property
    def hashed(self) -> dict[str, ParameterInfo]:
        """Shape and hash of the parameters that were read so far."""
        return {}

    @cached_property
    @override
    def base(self) -> BaseModel:
        return self.base_of(self.parameters().keys())

    @override
    def base_of(self, names: Set[str]) -> BaseModel:
        for name in names - self.hashed.keys():
            self.read(name)
        order = [name for name in self.parameters() if name in names]
        infos = {name: self.hashed[name] for name in order}
        return BaseModel(self.id, self.revision, infos)

    def read(self, name: str) -> Tensor:
        """Read a parameter, to where and in what the network computes.

        Args:
            name: Of the parameter.

        Returns:
            Its numbers; the first time they are hashed as well.

        Raises:
            SourceError: If they are not finite.
        """
        value = self.weights.read(name)
        if name not in self.hashed:
            if not torch.isfinite(value).all():
                raise SourceError(f"{self.id}: {name} holds values that are not finite")
            self.hashed[name] = parameter_info(value)
        real = value.is_floating_point()
        return value.to(self.place, self.dtype if real else None)

    @contextmanager
    def holding(self, names: Set[str], besides: Set[str]) -> Iterator[None]:
        """Have some parameters in memory for a while, frozen.

        Args:
            names: Of the parameters.
            besides: Others that stand for themselves without numbers: zeros that take
                no memory, for code that runs although nobody looks at what it gives.

        Yields:
            Nothing.
        """
        before: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for name, owners in self._owners.items():
                if name not in names and name not in besides:
                    continue
                module, key = owners[0]
                meta = module.get_parameter(key)
                value = self.read(name) if name in names else self._phantom(meta)
                loaded = nn.Parameter(value, requires_grad=False)
                for module, key in owners:
                    before.append((module, key, meta))
                    module._parameters[key] = loaded
            yield
        finally:
            for module, key, meta in before:
                module._parameters[key] = meta

    def _phantom(self, like: Tensor) -> Tensor:
        return torch.zeros((), dtype=like.dtype, device=self.place).expand(like.shape)

    @cached_property
    def _owners(self) -> dict[str, list[tuple[nn.Module, str]]]:
        """Every module that holds a parameter, and what it calls it."""
        names = {id(p): name for name, p in self.parameters().items()}
        found: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in self.module.modules():
            for key, p in module._parameters.items():
                if p is not None:
                    found[names[id(p)]].append((module, key))
        return found
