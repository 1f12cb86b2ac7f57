"""The interface every kind of block fulfils.

A header is read without torch, so blocks import it when they act.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast, final

from kfac_artifacts.artifact.provenance import NamedConfig
from kfac_artifacts.errors import FactorError
from kfac_artifacts.json_object import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from kfac_artifacts.factors import Factor

    Matrix: TypeAlias = Tensor
    TaskVector: TypeAlias = Mapping[str, Tensor]
    Matrices: TypeAlias = tuple[Factor, ...]
    FactorMapping: TypeAlias = Mapping[str, Factor]
else:
    Matrix, Matrices = object, tuple
    TaskVector = FactorMapping = Mapping  # a check of types must not read a factor

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Term: TypeAlias = tuple[str, ...]
Structures: TypeAlias = Callable[[str], NamedConfig]
"""Gives the structure of a factor by name."""


class Block(ABC):
    """The curvature of one module: what it covers, by which factors, how it acts.

    A block is a sum of terms on ``vec W``, ``W`` being the block's part of a task
    vector. A term is one matrix (``G``), or the Kronecker product of two (``A``, then
    ``B``: ``W`` becomes ``B W A``). Factors are referred to by name, because modules
    with the same input share one. Subclasses are frozen dataclasses.
    """

    kind: ClassVar[str]
    """What the manifest calls it."""
    roles: ClassVar[tuple[str, ...]]
    """What the manifest calls the factors of a term; the last acts on rows of ``W``."""

    terms: tuple[Term, ...]
    """Names of the factors of every term; one term is usual."""
    part: int | None = None
    """Of stacked parameters the slice that is covered; None for the whole."""
    positions: int | None = None
    """Of how many positions its A is the mean; None if that is not known."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the covered parameters, weight first."""

    @abstractmethod
    def sizes(self, shapes: Shapes) -> list[tuple[str, int]]:
        """Factors with the size that they must have, from the parameters' shapes."""

    def sizes_by_rank(self, structure: Structures) -> list[tuple[str, int]]:
        """Factors whose size follows from the structures of others, with that size."""
        return []

    @abstractmethod
    def gather(self, tau: TaskVector) -> Matrix:
        """Arrange the block's part of a task vector as one matrix ``W``."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Describe the block as the manifest does."""

    @classmethod
    @abstractmethod
    def from_json(cls, fields: JsonObject) -> "Block":
        """Read what the manifest says beside the kind."""

    def misfit(self, shapes: Shapes) -> str | None:
        """What is wrong with the shapes of its parameters, or None."""
        return None

    def usual_structures(self, shapes: Shapes) -> dict[str, NamedConfig]:
        """The structures of its factors as they are estimated, by name."""
        return dict.fromkeys(self.factors, NamedConfig("dense"))

    def misfit_of_factors(self, structure: Structures) -> str | None:
        """What is wrong with the structures of its factors, or None."""
        return None

    @final
    def matrix_shape(self, shapes: Shapes) -> tuple[int, int]:
        """The shape of ``W``, from the parameters' shapes."""
        import torch

        unreal = {p: torch.empty(shapes[p], device="meta") for p in self.parameters}
        rows, columns = self.gather(unreal).shape
        return rows, columns

    def products(self, factors: FactorMapping, shapes: Shapes) -> list[Matrices]:
        """The matrices of every term: its factors, unless the kind makes others.

        Args:
            factors: Its factors by name.
            shapes: Shapes of its parameters.

        Returns:
            For every term a tuple of its matrices, the last acting on rows of ``W``.
        """
        return [tuple(factors[name] for name in term) for term in self.terms]

    @property
    def covers(self) -> Hashable:
        """What it is the curvature of, whatever kind of block it is."""
        return self.parameters, self.part

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the factors, in the order of the terms."""
        return tuple(name for term in self.terms for name in term)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The last factor of every term."""
        return tuple(term[-1] for term in self.terms)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Every A; none where a term is one matrix."""
        return tuple(name for term in self.terms for name in term[:-1])

    @property
    def biased(self) -> tuple[str, ...]:
        """Factors whose last coordinate is the constant 1 of a bias."""
        return ()

    @property
    def summed(self) -> tuple[str, ...]:
        """Factors that merging adds up (TAK, Eq. 8); all others are averaged."""
        return ()

    @property
    def is_product(self) -> bool:
        """Whether a term is a Kronecker product."""
        return len(self.roles) > 1

    @property
    def is_sum(self) -> bool:
        """Whether it is a sum of products, none of them semidefinite by itself."""
        return self.is_product and len(self.terms) > 1

    @property
    def bases(self) -> tuple[str, ...]:
        """Factors in whose vectors the last one is given; none of most kinds."""
        return ()

    @property
    def is_refitted(self) -> bool:
        """Whether merging fits its factors anew, as they are no sums by themselves."""
        return False

    @property
    def is_table(self) -> bool:
        """Whether its A may be of rows that are looked up by number."""
        return False

    @final
    def all_sizes(self, shapes: Shapes, structure: Structures) -> list[tuple[str, int]]:
        """All factors with the size that they must have."""
        return [*self.sizes(shapes), *self.sizes_by_rank(structure)]

    @final
    def with_factors(self, names: Sequence[str]) -> "Block":
        """The same block, its factors called otherwise, in the order of the terms."""
        size = len(self.roles)
        starts = range(0, len(names), size)
        return self._with(terms=tuple(tuple(names[i : i + size]) for i in starts))

    def with_positions(self, positions: int | None) -> "Block":
        """The same block, A the mean of so many positions; of most kinds itself."""
        return self

    @final
    def unstacked(self) -> "Block":
        """The same block, as if its part were all that there is of its parameters."""
        return self if self.part is None else self._with(part=None)

    @final
    def scale(self, tasks: int) -> float:
        """What turns the stored block of ``tasks`` tasks into their weighted mean."""
        return 1.0 / tasks if self.summed else 1.0

    def product(self, W: Matrix, factors: FactorMapping) -> Matrix:
        """Apply the block as it is stored.

        Args:
            W: ``[d_out, d_in]``, or ``[entries, 1]`` where a term is one matrix.
            factors: Its factors, in the number type of ``W``.

        Returns:
            ``Σ_r B_r W A_r``, or ``Σ_r G_r W``.

        Raises:
            FactorError: If the factors are of another size.
        """
        import torch

        total: Matrix | None = None  # one term is usual, and costs no sum
        for *inputs, output in self.products(factors, {}):  # who needs shapes overrides
            self.require_shape(W, (output.dim, math.prod(A.dim for A in inputs)))
            M = W
            for A in inputs:
                M = A.matmul(M.mT).mT
            # last, so that what is given has its rows in memory; a zero A may be wider
            M = output.matmul(M.to(output.dtype))
            total = M if total is None else total + M
        return torch.zeros_like(W) if total is None else total

    @final
    def require_shape(self, W: Matrix, needed: tuple[int, int]) -> None:
        """Refuse a ``W`` that is not of the shape that its factors need."""
        if W.shape != needed:
            raise FactorError(
                f"{self.parameters[0]}: W has shape {list(W.shape)}, but its "
                f"factors need {list(needed)}; are they of another model?"
            )

    @final
    def terms_to_json(self) -> list[dict[str, str]]:
        """Describe the terms, their factors by role."""
        return [dict(zip(self.roles, term, strict=True)) for term in self.terms]

    @classmethod
    @final
    def terms_from_json(cls, fields: JsonObject) -> tuple[Term, ...]:
        """Read what ``terms_to_json`` wrote."""

        def read(value: object, where: str) -> Term:
            own = JsonObject(value, where)
            term = tuple(own.name(role) for role in cls.roles)
            own.finish()
            return term

        terms = fields.list_of("terms", read)
        fields.require(len(terms) > 0, "terms must not be empty")
        return terms

    def _with(self, **changes: Any) -> "Block":
        return replace(cast("Any", self), **changes)
