"""A block-diagonal operator over named parameters, with all that its blocks give."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts import curvlinops_adapter
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.operator.block_operators import BlockOperator, positive
from kfac_artifacts.operator.solve import Solver
from kfac_artifacts.operator.space import ParameterSpace

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class BlockDiagonalOperator:
    """A symmetric block-diagonal operator over named parameters.

    Vectors are given by name, flat (``[D]``), or as the columns of a matrix
    (``[D, K]``), and come back in the same form, in the operator's number type.

    Attributes:
        parameters: Name and shape of every parameter, in the order in which a flat
            vector has them: by block, the weight before the bias, rows flattened.
        shape: ``(D, D)``, D being the number of entries of all parameters.
        dtype: What the operator computes in, as NumPy and SciPy call it.
        torch_dtype: The same as PyTorch calls it.
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
        self.dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self.torch_dtype, self.device = dtype, device

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.shape[0]:,} x {self.shape[1]:,}, "
            f"{len(self._blocks)} blocks, {self.dtype}, {self.device})"
        )

    @overload
    def matvec(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def matvec(self, x: Tensor) -> Tensor: ...
    @overload
    def matvec(self, x: Array) -> Array: ...
    def matvec(
        self, x: Mapping[str, Tensor] | Tensor | Array
    ) -> dict[str, Tensor] | Tensor | Array:
        """Apply the operator to one vector, or to every column of a matrix.

        Args:
            x: By name (other names are left out), or ``[D]``, or ``[D, K]``, as a
                tensor or as an array of NumPy.

        Returns:
            The product, in the form of ``x``.

        Raises:
            MismatchError: If a covered parameter is missing, or a shape is wrong.
        """
        if isinstance(x, np.ndarray):
            # a copy: torch takes no array that must not be written
            product = self.matvec(torch.from_numpy(np.array(x)).to(self.device))
            return product.detach().cpu().numpy()
        if not isinstance(x, Tensor):
            return self.split(self.matvec(self.join(x)))
        if x.dim() not in {1, 2} or x.shape[0] != self.shape[1]:
            raise MismatchError(
                f"an operator over {self.shape[1]} numbers cannot be applied to shape "
                f"{list(x.shape)}; give [{self.shape[1]}] or [{self.shape[1]}, K]"
            )
        columns = (x if x.dim() == 2 else x[:, None]).to(self.torch_dtype)
        found = torch.empty_like(columns)
        for name, block in self._blocks.items():
            W = self._space.gather(name, columns)
            self._space.scatter(name, block.product(W), found)
        return found.reshape(x.shape)

    # the operator is symmetric; SciPy asks for all of these names
    rmatvec = matmat = rmatmat = __matmul__ = matvec

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
        diagonals = {n: b.diagonal()[..., None] for n, b in self._blocks.items()}
        first = next(iter(diagonals.values()))
        found = first.new_empty(self.shape[0], 1)
        for name, W in diagonals.items():
            self._space.scatter(name, W, found)
        return found[:, 0]

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
        check_damping(damping)
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
        check_damping(damping)
        powers = {
            name: block.power(exponent, damping, solver or Solver())
            for name, block in self._blocks.items()
        }
        return BlockDiagonalOperator(self._space, powers, self.torch_dtype, self.device)

    def to_scipy(self) -> "LinearOperator":
        """Wrap the operator for SciPy, with its arithmetic.

        ``eigsh``, ``cg`` and the like accept the operator itself, too.

        Returns:
            A ``LinearOperator`` over NumPy vectors of the operator's number type.
        """
        from scipy.sparse.linalg import LinearOperator  # noqa: PLC0415 - heavy

        own = self.matvec
        return LinearOperator(
            self.shape, matvec=own, rmatvec=own, matmat=own, dtype=self.dtype
        )

    def to_curvlinops(self) -> Any:
        """Wrap the operator for curvlinops: its estimators and arithmetic accept it.

        Returns:
            A ``PyTorchLinearOperator`` whose tensor lists are the parameters in order.

        Raises:
            SettingsError: If curvlinops is not installed.
        """
        return curvlinops_adapter.linear_operator(
            self.matvec, list(self.parameters.values()), self.torch_dtype, self.device
        )


def check_damping(damping: float) -> None:
    """Refuse a negative damping.

    Args:
        damping: What was asked for.

    Raises:
        SettingsError: If it is negative, or not a number.
    """
    if not damping >= 0:
        raise SettingsError(f"a damping must be 0 or more, not {damping}")
