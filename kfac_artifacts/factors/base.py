"""The interface every factor structure fulfils."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields as dataclass_fields, replace
from typing import Any, ClassVar, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.factors.fields import Configuration, Field
from kfac_artifacts.factors.int8 import Numbers, changed, parts
from kfac_artifacts.factors.shapes import SHAPES


def eigenvalue_ratio(low: float, high: float) -> float:
    """The lowest eigenvalue over the largest in magnitude; zero if all are zero."""
    largest = max(abs(low), abs(high))
    return low / largest if largest > 0 else 0.0


def weighted(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Add tensors up, with weights; one of them is in memory at a time."""
    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    total = weight * tensor
    for tensor, weight in pairs:
        total += weight * tensor
    return total


Own = TypeVar("Own", bound="Factor")


class Factor(ABC):
    """A symmetric ``d x d`` matrix, held in a structure that may be smaller.

    Subclasses are frozen dataclasses of fields: tensors, or numbers kept as int8.
    Storage, device moves and sizes are derived from them.
    """

    name: ClassVar[str]
    """The structure's name in the manifest."""

    @classmethod
    def from_fields(
        cls, fields: Mapping[str, Numbers], configuration: Configuration
    ) -> "Factor":
        """Build the factor of its fields.

        Args:
            fields: By name, of the shapes that ``SHAPES`` gives.
            configuration: The configuration.

        Returns:
            The factor.

        Raises:
            FactorError: If the values of the fields stand for no matrix.
        """
        return cls(**fields)

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of rows, which is the number of columns."""

    @property
    def configuration(self) -> dict[str, Any]:
        """What fixes the shapes of the fields beside ``dim``, as JSON."""
        return {}

    @property
    def shapes(self) -> dict[str, Field]:
        """Shape and role of every field, by name."""
        return SHAPES[self.name](self.dim, self.configuration)

    @abstractmethod
    def matmul(self, x: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Multiply the factor with ``x`` without materialising the factor."""

    @abstractmethod
    def to_dense(self) -> Float[Tensor, "d d"]:
        """Materialise the matrix; the reference for every other method."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal, without materialising the matrix."""

    @abstractmethod
    def eigenvalue_range(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue, or bounds that are easily had.

        The lower bound is negative only if the matrix may be indefinite.
        """

    def inner(self, other: "Factor") -> Float[Tensor, ""]:
        """Compute ``⟨F, F'⟩``, the sum over the products of all entries, in float64.

        Args:
            other: A factor of the same size, in any structure.

        Returns:
            The inner product; of a factor with itself its squared Frobenius norm.
        """
        for one, two in ((self, other), (other, self)):
            found = one._inner(two)
            if found is not None:
                return found
        return (self.to_dense().double() * other.to_dense().double()).sum()

    def _inner(self, other: "Factor") -> Tensor | None:
        """The inner product, if this structure spares forming the matrices."""
        return None

    @classmethod
    def sum_configuration(
        cls, summands: Sequence[Configuration], dim: int
    ) -> Configuration | None:
        """Say whether a sum of factors of this structure has it as well.

        Args:
            summands: Configurations of the factors.
            dim: Their size.

        Returns:
            The configuration of the sum; None if it has another structure.
        """
        same = all(configuration == summands[0] for configuration in summands)
        return summands[0] if same else None

    def weighted_sum(
        self, others: Sequence["Factor"], weights: Sequence[float]
    ) -> tuple["Factor", float] | None:
        """Add factors up, if the sum has the structure that they share.

        Args:
            others: What is added to this one.
            weights: Of this one and of the others; negative for what is taken out.

        Returns:
            The sum, and the Frobenius norm of what was left out; None if the sum has
            another structure.
        """
        return None

    def restructure(self, other: "Factor") -> "Factor":
        """Compress another factor as this one is, so that it can be taken out of it.

        Args:
            other: A factor of the same size.

        Returns:
            That factor in this structure, if it keeps less; else as it is.
        """
        return other

    def sum_bound(self) -> float:
        """What no sum of products that makes an entry exceeds; zero without sums."""
        return 0.0

    @abstractmethod
    def add_diagonal(self, amount: float) -> "Factor":
        """Add a number to every entry of the diagonal."""

    def fields(self) -> dict[str, Numbers]:
        """Name the fields that make up this factor."""
        return {f.name: getattr(self, f.name) for f in dataclass_fields(self)}  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """Name the tensors that make up this factor, those of int8 apart."""
        return {
            field + suffix: tensor
            for field, numbers in self.fields().items()
            for suffix, tensor in parts(numbers).items()
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dim} x {self.dim}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Memory held by the factor, in bytes."""
        return sum(t.nbytes for t in self.tensors().values())

    @property
    def dtype(self) -> torch.dtype:
        """The number type of products."""
        tensors = self.tensors().values()
        return next(t.dtype for t in tensors if t.is_floating_point())

    @final
    def to(
        self: Own,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Own:
        """Move to a device or compute in a dtype; what is kept as int8 stays so.

        Copies from pinned memory are not waited for: what uses them comes behind.

        Args:
            device: Where to; None is where it is.
            dtype: Number type of its real numbers; None is theirs.

        Returns:
            The factor; its values are not checked again.
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(
                device=device,
                dtype=dtype if tensor.is_floating_point() else None,
                non_blocking=tensor.is_pinned(),
            )

        return self.changed(moved)

    @final
    def changed(self: Own, change: Callable[[Tensor], Tensor]) -> Own:
        """Make the same factor of its tensors, each of them changed.

        Args:
            change: What keeps their shapes.

        Returns:
            The factor; its values are not checked again.
        """

        def of(value: Any) -> Any:
            if isinstance(value, Factor):
                return value.changed(change)
            if isinstance(value, tuple):
                return tuple(of(each) for each in value)
            return None if value is None else changed(value, change)

        own: Any = self
        values = {f.name: of(getattr(own, f.name)) for f in dataclass_fields(own)}
        made: Own = replace(own, **values)
        return made
