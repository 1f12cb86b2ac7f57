"""What an artifact says: blocks of curvature, their factors and their provenance.

Conventions (one block per module, n examples, f the output map, J its Jacobian):

- the Gramian of a dataset is ``G = (1/n) Σ_x J(x)ᵀ J(x)`` (TAK, Eq. 3);
- a Kronecker block approximates it by ``Σ_r B_r ⊗ A_r`` acting on ``vec W`` (rows
  flattened), where ``W`` is ``d_out x d_in`` and the bias is its last column;
- a Gramian block holds it in full for one small parameter;
- an artifact of T merged tasks holds ``A = Σ n_t A_t / Σ n_t`` and ``B = Σ B_t``
  (TAK, Eq. 8), so a Kronecker block is T times the weighted mean: ``Block.scale``.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import Factor

Json: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None


class Layout(StrEnum):
    """How a parameter of any rank becomes the matrix ``W`` of a linear map."""

    ROWS = "rows"
    """``weight.reshape(shape[0], -1)``: Linear, and Conv2d on unfolded patches."""

    COLUMNS = "columns"
    """``weight.reshape(-1, shape[-1])`` transposed: ``Conv1D``, tables of vectors."""

    def matrix(self, weight: Tensor) -> Tensor:
        """View ``weight`` as ``W``, of shape ``[d_out, d_in]``."""
        if self is Layout.ROWS:
            return weight.reshape(weight.shape[0], -1)
        return weight.reshape(-1, weight.shape[-1]).mT

    def dims(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """``(d_out, d_in)`` of a parameter of this shape, without a bias."""
        d_out = shape[0] if self is Layout.ROWS else shape[-1]
        return d_out, math.prod(shape) // d_out


class Block(ABC):
    """The curvature of one module: which parameters it covers, and by which factors.

    Factors are referred to by name, because modules with the same input share one.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the covered parameters, weight first."""

    @property
    @abstractmethod
    def factors(self) -> tuple[str, ...]:
        """Names of the factors, in the order of the terms."""

    @abstractmethod
    def with_factors(self, names: Sequence[str]) -> "Block":
        """The same block, its factors called otherwise, in the order of the terms."""

    @abstractmethod
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        """Each factor with the size it must have, from the parameters' shapes."""

    @abstractmethod
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Arrange the block's part of a task vector as one matrix ``W``."""

    @abstractmethod
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        """Apply the block as it is stored: ``M = Σ_r B_r W A_r``."""

    @abstractmethod
    def scale(self, tasks: int) -> float:
        """What turns the stored block of ``tasks`` tasks into their weighted mean."""


@final
@dataclass(frozen=True)
class KroneckerBlock(Block):
    """A linear map ``z = W a (+ b)``: ``Σ_r B_r ⊗ A_r`` (TAK, Eq. 6).

    Attributes:
        weight: Name of the weight.
        bias: Name of the bias, the last column of ``W``, or None.
        layout: How the weight becomes ``W``.
        terms: Names of ``(A, B)`` for each term; one is the ordinary case.
    """

    kind: ClassVar[str] = "kronecker"

    weight: str
    bias: str | None
    layout: Layout
    terms: tuple[tuple[str, str], ...]

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    @override
    def factors(self) -> tuple[str, ...]:
        return tuple(name for term in self.terms for name in term)

    @override
    def with_factors(self, names: Sequence[str]) -> "KroneckerBlock":
        pairs = zip(names[::2], names[1::2], strict=True)
        return replace(self, terms=tuple(pairs))

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        d_out, d_in = self.layout.dims(shapes[self.weight])
        d_in += self.bias is not None
        return [size for a, b in self.terms for size in ((a, d_in), (b, d_out))]

    @override
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        W = self.layout.matrix(tau[self.weight])
        if self.bias is None:
            return W
        return torch.cat([W, tau[self.bias][:, None]], dim=1)

    @override
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        total = torch.zeros_like(W)
        for a, b in self.terms:
            A, B = factors[a], factors[b]
            if W.shape != (B.dim, A.dim):
                raise FactorError(
                    f"{self.weight}: W has shape {list(W.shape)}, but its factors need "
                    f"[{B.dim}, {A.dim}]; are they of another model?"
                )
            total += A.matmul(B.matmul(W).mT).mT
        return total

    @override
    def scale(self, tasks: int) -> float:
        return 1.0 / tasks


@final
@dataclass(frozen=True)
class GramianBlock(Block):
    """A small parameter with its whole Gramian: no approximation.

    Attributes:
        parameter: Name of the parameter; its entries flattened are the rows.
        terms: Names of the matrices whose sum is the Gramian; one is usual.
    """

    kind: ClassVar[str] = "gramian"

    parameter: str
    terms: tuple[str, ...]

    @property
    @override
    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    @property
    @override
    def factors(self) -> tuple[str, ...]:
        return self.terms

    @override
    def with_factors(self, names: Sequence[str]) -> "GramianBlock":
        return replace(self, terms=tuple(names))

    @override
    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
        return [(name, math.prod(shapes[self.parameter])) for name in self.terms]

    @override
    def gather(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        return tau[self.parameter].reshape(-1, 1)

    @override
    def product(
        self, W: Float[Tensor, "d_out d_in"], factors: Mapping[str, Factor]
    ) -> Float[Tensor, "d_out d_in"]:
        total = torch.zeros_like(W)
        for name in self.terms:
            if W.shape != (factors[name].dim, 1):
                raise FactorError(
                    f"{self.parameter} has {W.shape[0]} entries, but its Gramian is of "
                    f"size {factors[name].dim}; is it of another model?"
                )
            total += factors[name].matmul(W)
        return total

    @override
    def scale(self, tasks: int) -> float:
        return 1.0


@dataclass(frozen=True)
class ParameterInfo:
    """Shape of a parameter, and the sha256 of its values.

    The hash is over the values as little-endian float32, rows first, so that a model
    saved in float32 and in bfloat16 differ only where their values do.
    """

    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class BaseModel:
    """The pretrained model an artifact or a task vector belongs to."""

    id: str
    revision: str | None
    parameters: Mapping[str, ParameterInfo]

    @property
    def sha256(self) -> str:
        """One hash over all: of the lines ``<name> <sha256>``, sorted by name."""
        lines = (f"{n} {p.sha256}\n" for n, p in sorted(self.parameters.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter."""
        return {name: info.shape for name, info in self.parameters.items()}

    def differences(self, other: "BaseModel") -> list[str]:
        """Say in words what of this model is not in another, or differs there."""
        found = []
        missing = [n for n in self.parameters if n not in other.parameters]
        if missing:
            found.append(f"{other.id} has no parameter {_listed(missing)}")
        changed = []
        for name in [n for n in self.parameters if n in other.parameters]:
            ours, theirs = self.parameters[name], other.parameters[name]
            if ours.shape != theirs.shape:
                found.append(
                    f"{name} has shape {list(theirs.shape)} in {other.id}, "
                    f"not {list(ours.shape)} as in {self.id}"
                )
            elif ours.sha256 != theirs.sha256:
                changed.append(name)
        if changed:
            found.append(f"{other.id} has other values in {_listed(changed)}")
        return found

    def restrict(self, names: set[str]) -> "BaseModel":
        """The same model, seen through some of its parameters."""
        kept = {n: p for n, p in self.parameters.items() if n in names}
        return BaseModel(self.id, self.revision, kept)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


@dataclass(frozen=True)
class Named:
    """A name with its configuration: an output map, a preprocessing."""

    name: str
    configuration: Mapping[str, Json] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {dict(self.configuration) or ''}".rstrip()


@dataclass(frozen=True)
class DataInfo:
    """Which data were used, without showing them.

    Attributes:
        id: Hub id, or the name (never the path) of a local file or folder.
        config: Configuration of the dataset, if it has several.
        split: Split, if there is one.
        fingerprint: sha256 of the examples that were used.
        examples: How many examples were used.
        size: How many examples the dataset has: the weight n_t in merging.
        preprocessing: How an example became a batch.
    """

    id: str
    config: str | None
    split: str | None
    fingerprint: str
    examples: int
    size: int
    preprocessing: Named


@dataclass(frozen=True)
class Cotangents:
    """Which vectors were pulled back through the network.

    Attributes:
        name: ``mc`` (Gaussian, unbiased) or ``exact`` (the C unit vectors).
        draws: Vectors per example, divided out; None for ``exact``.
        seed: Seed of the draws and of the choice of examples.
    """

    name: str
    draws: int | None
    seed: int


@dataclass(frozen=True)
class Source:
    """One task of an artifact; ``digest`` names the artifact it was merged from."""

    data: DataInfo
    cotangents: Cotangents
    digest: str | None = None


@dataclass(frozen=True)
class MergeError:
    """What merging lost in one block, relative to the norm of the unmerged sum.

    Attributes:
        relative: The exact relative Frobenius error.
        bound: The bound of TAK, Eq. 18, relative to the same norm.
    """

    relative: float
    bound: float


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from, and so what it may be used with.

    Attributes:
        base: The pretrained model, restricted to the covered parameters.
        output_map: The function f whose Jacobian it is.
        estimator: ``kfac``.
        tasks: Number T of tasks merged.
        size: Sum of the dataset sizes n_t of those tasks.
        sources: The tasks, in order.
        excluded: Parameters left out on request.
        uncovered: Parameters left out for a reason, with the reason.
        merge_errors: What the last merge lost, per block.
    """

    base: BaseModel
    output_map: Named
    estimator: str
    tasks: int
    size: int
    sources: tuple[Source, ...]
    excluded: tuple[str, ...] = ()
    uncovered: Mapping[str, str] = field(default_factory=dict)
    merge_errors: Mapping[str, MergeError] = field(default_factory=dict)


class LazyFactors(Mapping[str, Factor]):
    """Factors that are read or computed when they are asked for."""

    @abstractmethod
    def structure(self, name: str) -> str:
        """Name of a factor's structure, without the factor."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """Blocks by name, the factors they refer to, and where they come from.

    The factors may be ``LazyFactors``, so that one at a time is in memory.
    ``digest`` is the sha256 of the manifest, once there is one on disk.
    """

    provenance: Provenance
    blocks: Mapping[str, Block]
    factors: Mapping[str, Factor]
    digest: str | None = None

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every covered parameter with its shape."""
        return self.provenance.base.shapes

    def structure(self, name: str) -> str:
        """Name of a factor's structure; nothing is read for it."""
        if isinstance(self.factors, LazyFactors):
            return self.factors.structure(name)
        return self.factors[name].name

    def drift(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Estimate ``Σ_t λ_t τᵀ G_t τ`` (TAK, Eq. 6), λ summing to one; no gradient.

        Args:
            tau: Task vector by parameter name; it must have every covered parameter.

        Returns:
            The weighted mean drift of the artifact's tasks, one number.
        """
        values = []
        with torch.no_grad():
            for block in self.blocks.values():
                W = block.gather(tau)
                M = block.product(W, self.factors)
                values.append(block.scale(self.provenance.tasks) * (W * M).sum())
        return torch.stack(values).sum()
