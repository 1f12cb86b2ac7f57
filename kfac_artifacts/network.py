"""A pretrained model seen as ``f(x, θ)``, and the examples that are put into it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from kfac_artifacts.artifact import BaseModel, DataInfo, NamedConfig, ParameterInfo
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.kernels import running_experts_one_by_one, uncompiled
from kfac_artifacts.plain import plain

Batch: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class OutputMap:
    """The function f of the model's activations, C numbers per example.

    Attributes:
        info: Its name and configuration, as recorded in artifacts. One of your own is
            called like ``org.example/logits``: plain names have a meaning for
            everybody (``spec/output_maps.md``).
        apply: From the module and a batch of N examples to ``[N, C]``. If it is a
            module itself, its parameters are constants of f.
        reads_padding: Whether f depends on padded positions, so that they count like
            others: some models take texts of one length only.
        classes: Of an f that is made of distributions, ``2 √p`` of one after another:
            over how many classes each of them is; 0 of any other f.
        ragged: Whether C is another for every example, as for texts with a distribution
            for each token; there are zeros behind the numbers of the shorter ones.
        head: Path of the module that comes last and takes a large part of the time, as
            the one that gives the logits of a language model; empty if there is none.
            What its layers are given is known without what it gives.
    """

    info: NamedConfig
    apply: Callable[[nn.Module, Batch], Tensor]
    reads_padding: bool = False
    classes: int = 0
    ragged: bool = False
    head: str = ""

    def __call__(self, module: nn.Module, batch: Batch) -> Tensor:
        """Compute f of a batch.

        Args:
            module: The module.
            batch: Its keyword arguments, on its device.

        Returns:
            One row for every example, ``[N, C]``.

        Raises:
            SettingsError: If it is no matrix with a row for every example.
        """
        output = self.apply(module, batch)
        count = len(next(iter(batch.values())))
        if isinstance(output, Tensor):
            matrix = output.ndim == 2 and len(output) == count and output.shape[1]
            if matrix and output.is_floating_point():
                return output
            kind = str(output.dtype).removeprefix("torch.")
            found = f"a tensor {list(output.shape)} of {kind}"
        else:
            found = f"a {type(output).__name__}"
        raise SettingsError(
            f"the output map {self.info.name!r} gives {found} for {count} examples; it "
            "must give one tensor [examples, outputs] of real numbers, for example "
            "module(**batch).last_hidden_state.mean(1)"
        )

    @property
    def constants(self) -> dict[str, Tensor]:
        """Weights that f has beside those of the module, by name."""
        if not isinstance(self.apply, nn.Module):
            return {}
        return {f"modules.{n}": p for n, p in self.apply.named_parameters()}


@runtime_checkable
class Examples(Protocol):
    """A finite dataset in which a number names an example for ever."""

    def __len__(self) -> int:
        """Number of examples in the dataset."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some examples as the model's keyword arguments, padded."""

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the dataset, and fingerprint the examples that were used."""


@runtime_checkable
class RowsOfExamples(Examples, Protocol):
    """Examples that are made of several, such as texts that share a row."""

    def parts(self, index: int) -> Sequence[str]:
        """Tell what one is made of; equal ones are the same."""


@runtime_checkable
class LabelledExamples(Examples, Protocol):
    """Examples with a class each."""

    @property
    def labels(self) -> Sequence[int]:
        """Class of every example, an index into ``classes``."""

    @property
    def classes(self) -> Sequence[str]:
        """Name of every class."""


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Examples that are tensors already, all of one shape: for data of your own.

    Attributes:
        tensors: The model's keyword arguments, each with the examples first.
        id: What to call the data in the artifact.
    """

    tensors: Mapping[str, Tensor]
    id: str

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in self.tensors.items())
        return f"TensorExamples({self.id!r:.60}, {shapes:.100})"

    def __len__(self) -> int:
        """Number of examples."""
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Take some examples."""
        return {name: values[list(indices)] for name, values in self.tensors.items()}

    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the data; the fingerprint is over numbers, names and values."""
        digest = hashlib.sha256(repr(list(indices)).encode())
        for name, values in sorted(self.batch(indices).items()):
            digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
            content = values.detach().cpu().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().tobytes())
        return DataInfo(
            id=self.id,
            config=None,
            split=None,
            fingerprint=digest.hexdigest(),
            examples=len(indices),
            size=len(self),
            preprocessing=NamedConfig("tensors"),
        )


class _Wrapped(nn.Module):
    """Gives ``functional_call`` a module whose forward is the output map."""

    def __init__(
        self, module: nn.Module, output: Callable[[nn.Module, Batch], Tensor]
    ) -> None:
        super().__init__()
        self.base = module
        self.output = output

    def forward(self, batch: Batch) -> Tensor:
        """Apply the output map."""
        return self.output(self.base, batch)


@dataclass(eq=False)
class Network:
    """A pretrained module with its output map.

    A batch is batch-first: the first axis of every tensor counts examples. For text
    its ``attention_mask`` (``[N, T]``, 1 for a real token) tells padding from text.

    What compiles or replicates the module is taken off: its names are its own.

    Attributes:
        module: The pretrained module; f is in evaluation mode whatever its own.
        output_map: The function f.
        id: Hub id or name of the model, as recorded in artifacts.
        revision: The Hub's commit, if known.
        precision: Number type of matrix products, under ``torch.autocast``; None for
            that of the module.
    """

    module: nn.Module
    output_map: OutputMap
    id: str
    revision: str | None = None
    precision: torch.dtype | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Find the plain module."""
        self.module = plain(self.module)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.module.parameters())
        return (
            f"Network({self.id!r:.60}, {self.output_map.info.name}, {count:,} "
            f"parameters of {type(self.module).__name__})"
        )

    def __call__(self, batch: Batch) -> Float[Tensor, "n c"]:
        """Evaluate ``f(x, θ0)`` for a batch."""
        with self._evaluating():
            return self._output(self.module, self.to_device(batch))

    def functional_call(
        self, parameters: Mapping[str, Tensor], batch: Batch
    ) -> Float[Tensor, "n c"]:
        """Evaluate f with some parameters replaced; the module is left as it is."""
        replaced = {f"base.{name}": value for name, value in parameters.items()}
        wrapped = _Wrapped(self.module, self._output)
        with self._evaluating():
            return functional_call(wrapped, replaced, (self.to_device(batch),))

    def moved(self, tau: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "n c"]:
        """Evaluate ``f(x, θ0 + τ)``, with gradients for τ alone.

        Args:
            tau: Changes by parameter name; parameters without one stand still.
            batch: N examples.

        Returns:
            The output, in the number type of the network.
        """
        # Everything is detached, so that no gradient is kept for what stands still.
        values = {name: value.detach() for name, value in self.parameters().items()}
        for name, change in tau.items():
            # the sum is of the wider type: what is small beside a half must not be lost
            values[name] = (values[name] + change).to(values[name].dtype)
        return self.functional_call(values, batch)

    def _output(self, module: nn.Module, batch: Batch) -> Tensor:
        """Compute f at its precision, in the number type of the module."""
        if self.precision is None:
            return self.output_map(module, batch)
        # nothing is kept of casts: a weight may be another one in the next call
        with torch.autocast(self.device.type, self.precision, cache_enabled=False):
            return self.output_map(module, batch).to(self.dtype)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Switch dropout off for a while, then restore the mode of every part."""
        before = {part: part.training for part in self.module.modules()}
        self.module.eval()
        try:
            with uncompiled(), running_experts_one_by_one(self.module):
                yield
        finally:
            for part, training in before.items():
                part.training = training

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by name; a shared one only under its first name."""
        return dict(self.module.named_parameters())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter by name."""
        return {name: tuple(p.shape) for name, p in self.parameters().items()}

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the module computes in: the type of its first real parameter."""
        parameters = self.module.parameters()
        return next(p.dtype for p in parameters if p.is_floating_point())

    @property
    def template(self) -> Tensor:
        """An empty tensor of the device and the number type that it computes in."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    def to_device(self, batch: Batch) -> dict[str, Tensor]:
        """Move a batch to where the module is; real numbers become of its type."""
        dtype = self.dtype
        return {
            name: values.to(
                self.device,
                dtype if values.is_floating_point() else None,
                non_blocking=True,
            )
            for name, values in batch.items()
        }

    def mask(self, batch: Batch) -> Bool[Tensor, "n t"] | None:
        """Which positions count, or None when every position does."""
        mask = batch.get("attention_mask")
        return (
            None
            if mask is None or self.output_map.reads_padding
            else mask.to(self.device).bool()
        )

    @cached_property
    def base(self) -> BaseModel:
        """Shape and hash of every parameter, taken when first asked for."""
        infos = {n: parameter_info(p) for n, p in self.parameters().items()}
        return BaseModel(self.id, self.revision, infos)

    def base_of(self, names: Set[str]) -> BaseModel:
        """The same of some parameters; nothing else is hashed for it."""
        if "base" in self.__dict__:  # they may have been moved or converted since
            return self.base.restrict(names)
        chosen = {n: p for n, p in self.parameters().items() if n in names}
        infos = {n: parameter_info(p) for n, p in chosen.items()}
        return BaseModel(self.id, self.revision, infos)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Network":
        """Move or convert the module in place; the hashes stay those from before."""
        _ = self.base
        self.module.to(device=device, dtype=dtype)
        if isinstance(self.output_map.apply, nn.Module):
            self.output_map.apply.to(device=device, dtype=dtype)
        return self


def parameter_info(parameter: Tensor) -> ParameterInfo:
    """Shape and hash of a parameter; real numbers are hashed as float32."""
    values = parameter.detach().cpu().contiguous()
    if values.is_floating_point():
        content = values.float().numpy().astype("<f4", copy=False)
    else:  # codes of quantised weights: never covered, so no format says how
        content = values.reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(content.data)
    return ParameterInfo(tuple(parameter.shape), digest.hexdigest())
