"""The block-diagonal operator ``G + δ I`` over the covered parameters.

The scale is that of the *mean drift*: ``xᵀ G x`` is ``Artifact.drift(x)``, so for one
task G is the Gramian ``(1/n) Σ_x J(x)ᵀ J(x)`` as the artifact approximates it, and for
several merged ones their weighted mean, λ summing to one, whatever their number.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, final, overload

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts import curvlinops_adapter
from kfac_artifacts.artifact import Artifact, Block, GramianBlock, KroneckerBlock
from kfac_artifacts.errors import FactorError, MismatchError, SettingsError
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.operator.blocks import BlockOperator, KroneckerSum, positive
from kfac_artifacts.operator.solve import Solver
from kfac_artifacts.operator.space import ParameterSpace
from kfac_artifacts.operator.spectrum import Decomposed

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class BlockDiagonalOperator:
    """A symmetric block-diagonal operator over named parameters.

    Vectors are given by name, flat (``[D]``), or as the columns of a matrix
    (``[D, K]``), and come back in the same form, in the operator's number type.

    Attributes:
        parameters: Name and shape of every parameter, in the order in which a flat
            vector has them: by block, the weight before the bias, rows flattened.
        shape: ``(D, D)``, D being the number of entries of all parameters.
        dtype: What the operator computes in.
        device: Where its factors are.
    """

    def __init__(
        self,
        space: ParameterSpace,
        blocks: Mapping[str, BlockOperator],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._space, self._blocks = space, blocks
        self.parameters = space.shapes
        self.shape = (space.size, space.size)
        self.dtype, self.device = dtype, device

    @overload
    def matvec(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def matvec(self, x: Tensor) -> Tensor: ...
    def matvec(self, x: Mapping[str, Tensor] | Tensor) -> dict[str, Tensor] | Tensor:
        """Apply the operator to one vector, or to every column of a matrix.

        Args:
            x: By name (other names are left out), or ``[D]``, or ``[D, K]``.

        Returns:
            The product, in the form of ``x``.

        Raises:
            MismatchError: If a covered parameter is missing, or a shape is wrong.
        """
        if not isinstance(x, Tensor):
            return self.split(self.matvec(self.join(x)))
        if x.dim() not in {1, 2} or x.shape[0] != self.shape[1]:
            raise MismatchError(
                f"an operator over {self.shape[1]} numbers cannot be applied to shape "
                f"{list(x.shape)}; give [{self.shape[1]}] or [{self.shape[1]}, K]"
            )
        columns = (x if x.dim() == 2 else x[:, None]).to(self.dtype)
        parts = []
        for name, block in self._blocks.items():
            part = columns[self._space.slices[name]]
            places = self._space.places(name, self.device)
            product = torch.empty_like(part)
            product[places] = block.product(part[places])
            parts.append(product)
        return torch.cat(parts).reshape(x.shape)

    __matmul__ = matvec

    def join(self, tau: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
        """Make a flat vector of named tensors."""
        return self._space.join(tau)

    def split(self, x: Float[Tensor, "d ..."]) -> dict[str, Tensor]:
        """Name the parts of a flat vector, or of a matrix of columns."""
        return self._space.split(x)

    def trace(self) -> Float[Tensor, ""]:
        """The trace, exactly."""
        return torch.stack([b.diagonal().sum() for b in self._blocks.values()]).sum()

    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal as a flat vector; ``split`` names its parts."""
        return self._flat({n: b.diagonal() for n, b in self._blocks.items()})

    def frobenius_norm(self) -> Float[Tensor, ""]:
        """The Frobenius norm, exactly."""
        squares = [block.squared_norm() for block in self._blocks.values()]
        return torch.stack(squares).sum().sqrt()

    def eigenvalues(self) -> Float[Tensor, " d"]:
        """All D eigenvalues, from those of the factors, in rising order.

        Returns:
            The eigenvalues.

        Raises:
            FactorError: If a block is a sum of several Kronecker products.
        """
        values = [b.eigenvalues().flatten() for b in self._blocks.values()]
        return torch.cat(values).sort().values

    def logdet(self, damping: float = 0.0) -> Float[Tensor, ""]:
        """The logarithm of the determinant, as Laplace's evidence needs it.

        Args:
            damping: Added to the diagonal.

        Returns:
            ``log det (self + damping I)``.

        Raises:
            FactorError: If the damped operator is not positive definite, or a block
                is a sum of several Kronecker products.
        """
        _check_damping(damping)
        logs = [
            positive(block.eigenvalues() + damping, name).log().sum()
            for name, block in self._blocks.items()
        ]
        return torch.stack(logs).sum()

    def inverse(
        self, damping: float = 0.0, *, solver: Solver | None = None
    ) -> "BlockDiagonalOperator":
        """``(self + damping I)^-1``, damped as a whole, not factor by factor.

        It is exact, by the eigenvectors of the factors, but for a block of several
        Kronecker products, where every product runs conjugate gradients.

        Args:
            damping: Added to the diagonal.
            solver: When conjugate gradients stop.

        Returns:
            The inverse.

        Raises:
            FactorError: If the damped operator is not positive definite; raised when
                applied if it takes conjugate gradients that do not converge.
        """
        return self.power(-1.0, damping, solver=solver)

    def power(
        self, exponent: float, damping: float = 0.0, *, solver: Solver | None = None
    ) -> "BlockDiagonalOperator":
        """``(self + damping I)^exponent``; at -1/2 it makes Laplace's samples.

        Args:
            exponent: Any real number.
            damping: Added to the diagonal.
            solver: When conjugate gradients stop.

        Returns:
            The power; it can be damped, inverted and raised again.

        Raises:
            FactorError: If the damped operator is not positive definite, or a block
                of several Kronecker products has no such power: only -1.
        """
        _check_damping(damping)
        powers = {
            name: block.power(exponent, damping, solver or Solver())
            for name, block in self._blocks.items()
        }
        return BlockDiagonalOperator(self._space, powers, self.dtype, self.device)

    def to_scipy(self) -> "LinearOperator":
        """Wrap the operator for SciPy: ``eigsh``, ``cg`` and the like accept it.

        Returns:
            A ``LinearOperator`` over NumPy vectors of the operator's number type.
        """
        from scipy.sparse.linalg import LinearOperator  # noqa: PLC0415 - heavy

        def matmat(x: Any) -> Any:
            product = self.matvec(torch.from_numpy(x.copy()).to(self.device))
            return product.detach().cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            self.shape, matvec=matmat, rmatvec=matmat, matmat=matmat, dtype=dtype
        )

    def to_curvlinops(self) -> Any:
        """Wrap the operator for curvlinops: its estimators and arithmetic accept it.

        Returns:
            A ``PyTorchLinearOperator`` whose tensor lists are the parameters in order.

        Raises:
            SettingsError: If curvlinops is not installed.
        """
        return curvlinops_adapter.linear_operator(
            self.matvec, list(self.parameters.values()), self.dtype, self.device
        )

    def _flat(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Make a flat vector of what is arranged as ``W`` in every block."""

        def flats() -> Iterator[Tensor]:
            for name, W in parts.items():
                flat = W.new_empty(W.numel())
                flat[self._space.places(name, self.device)] = W
                yield flat

        return torch.cat(list(flats()))


@final
class CurvatureOperator(BlockDiagonalOperator):
    """The curvature of an artifact, ``G + damping I``; all its factors are in memory.

    Args:
        artifact: The curvature.
        damping: δ, added to the diagonal.
        dtype: float32 or float64; None is the wider one of float32 and the factors'.
        device: Where to compute; None is where the factors are.

    Raises:
        SettingsError: If the damping is negative, or the number type is another.
        FactorError: If a block is of a kind that is not known here.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        damping: float = 0.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _check_damping(damping)
        factors = {name: artifact.factors[name] for name in artifact.factors}
        tensors = [t for factor in factors.values() for t in factor.tensors().values()]
        dtype = dtype or _wide(tensors)
        if dtype not in {torch.float32, torch.float64}:
            raise SettingsError(
                f"an operator computes in float32 or float64, not in {dtype}"
            )
        place = tensors[0].device if device is None else torch.device(device)
        held = {n: Decomposed(f.to(place, dtype)) for n, f in factors.items()}
        tasks = artifact.provenance.tasks
        blocks = {
            name: KroneckerSum(name, _terms(block, held), block.scale(tasks), damping)
            for name, block in artifact.blocks.items()
        }
        super().__init__(ParameterSpace(artifact), blocks, dtype, place)


def _terms(
    block: Block, held: Mapping[str, Decomposed]
) -> list[tuple[Decomposed, Decomposed]]:
    """The pairs ``(B, A)`` of a block."""
    if isinstance(block, KroneckerBlock):
        return [(held[b], held[a]) for a, b in block.terms]
    if isinstance(block, GramianBlock):
        matrix = held[block.terms[0]]
        if len(block.terms) > 1:
            matrix = Decomposed(_sum([held[name].factor for name in block.terms]))
        one = matrix.factor.diagonal().new_ones(1)
        return [(matrix, Decomposed(Diagonal(one)))]
    raise FactorError(f"no operator is known for blocks of the kind {block.kind!r}")


def _sum(factors: list[Factor]) -> Factor:
    return Dense(torch.stack([factor.to_dense() for factor in factors]).sum(0))


def _wide(tensors: list[Tensor]) -> torch.dtype:
    double = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


def _check_damping(damping: float) -> None:
    if not damping >= 0:
        raise SettingsError(f"a damping must be 0 or more, not {damping}")
