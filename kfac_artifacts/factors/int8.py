"""Numbers kept as int8 in memory, and turned into float when they are used.

A row has its largest magnitude as scale s and codes q from -127 to 127, which stand for
``q · s / 127`` (Dettmers et al. 2022, LLM.int8). Scales and decoded values are those of
bitsandbytes' ``int8_vectorwise_quant`` and ``int8_vectorwise_dequant`` to the last bit,
and so are codes, but for what is halfway between two: there it rounds 127 / s
otherwise. Its kernels do not serve here: the one that rounds takes float16 alone, and
those that multiply round the other operand to int8 as well, which is a task vector: the
penalty would have an error of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.fields import ROW

ROWS = 128
"""Rows of a matrix that are float at the same time."""
LARGEST = 127
MAX_SCALE = 2.0**121
"""Largest scale that all codes can be multiplied with."""
UNIT = 7.874015718698502e-3
"""The float32 that is nearest to 1/127."""


@final
@dataclass(frozen=True, eq=False)
class Int8Entries:
    """Entries ``[r, n]`` with a scale per row, or ``[n]`` with one per 64."""

    codes: Int8[Tensor, "*shape"]
    scales: Float[Tensor, " rows"]

    @classmethod
    def of(cls, values: Float[Tensor, "*shape"]) -> "Int8Entries":
        """Round values to int8.

        Args:
            values: Finite numbers of one or two axes.

        Returns:
            The codes and scales.
        """
        rows = _rows(values.to(torch.float32))
        codes, scales = _quantised(rows)
        return cls(codes.reshape(-1)[: values.numel()].view(values.shape), scales)

    def floats(self) -> Float[Tensor, "*shape"]:
        """The numbers that the codes stand for, in the scales' number type."""
        rows = _decoded(_rows(self.codes), self.scales)
        return rows.reshape(-1)[: self.codes.numel()].view(self.codes.shape)

    def parts(self) -> dict[str, Tensor]:
        """The tensors, by what is added to the field's name for them."""
        return {"": self.codes, ".scales": self.scales}

    def check(self) -> None:
        """Refuse what no rounding gives.

        Raises:
            FactorError: If a scale is negative or not finite, or a code is -128.
        """
        _check(self.codes, self.scales)


@final
@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """Symmetric matrices ``[..., s, s]``, their diagonals kept apart as they are.

    The diagonal has the largest entries of a covariance and would spoil the scale of
    its row. Entry (i, j) and entry (j, i) have the code and the scale of the row i < j.

    Attributes:
        codes: Symmetric, zero on the diagonal.
        scales: Of the rows of the strict upper triangle.
        diagonal: The diagonal.
    """

    codes: Int8[Tensor, "*stack s s"]
    scales: Float[Tensor, "*stack s"]
    diagonal: Float[Tensor, "*stack s"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "*stack s s"]) -> "Int8Matrix":
        """Round symmetric matrices to int8, but for their diagonals.

        Args:
            matrix: Finite numbers; what is below the diagonal is not looked at.

        Returns:
            Codes, scales and diagonals.
        """
        exact = matrix.to(torch.float32)
        codes, scales = _quantised(exact.triu(1))
        diagonal = exact.diagonal(dim1=-2, dim2=-1).contiguous()
        return cls(codes + codes.mT, scales, diagonal)

    def floats(self) -> Float[Tensor, "*stack s s"]:
        """The matrices in full, in the scales' number type."""
        upper = _decoded(self.codes.triu(1), self.scales)
        return upper + upper.mT + torch.diag_embed(self.diagonal)

    def matmul(self, x: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
        """Multiply a single matrix, of which few rows are float at once."""
        # scales go into x and into the result, so that the codes are only converted
        scales = (self.scales * UNIT)[:, None]
        scaled, found = scales * x, self.diagonal[:, None] * x
        for start in range(0, len(x), ROWS):
            stop = min(start + ROWS, len(x))
            codes = self.codes[start:stop].to(x.dtype)
            own = scales[start:stop] * codes[:, start:stop].triu(1)
            within = own @ x[start:stop] + own.mT @ x[start:stop]
            right = scales[start:stop] * (codes[:, stop:] @ x[stop:])
            found[start:stop] += codes[:, :start] @ scaled[:start] + within + right
        return found

    def add_diagonal(self, amount: float) -> "Int8Matrix":
        """Add a number to every diagonal."""
        return Int8Matrix(self.codes, self.scales, self.diagonal + amount)

    def parts(self) -> dict[str, Tensor]:
        """The tensors, by what is added to the field's name for them."""
        return {"": self.codes, ".scales": self.scales, ".diagonal": self.diagonal}

    def check(self) -> None:
        """Refuse what no rounding gives.

        Raises:
            FactorError: If a scale is negative or not finite, or a code is -128.
        """
        _check(self.codes, self.scales)


Numbers: TypeAlias = Tensor | Int8Entries | Int8Matrix
"""One field of a factor, as it is kept in memory."""


def floats(numbers: Numbers) -> Tensor:
    """Give the numbers of a field."""
    return numbers if isinstance(numbers, Tensor) else numbers.floats()


def parts(numbers: Numbers) -> dict[str, Tensor]:
    """Give the tensors of a field, by what is added to its name for them."""
    return {"": numbers} if isinstance(numbers, Tensor) else numbers.parts()


def changed(numbers: Numbers, change: Callable[[Tensor], Tensor]) -> Numbers:
    """Make a field of its tensors, each of them changed."""
    if isinstance(numbers, Tensor):
        return change(numbers)
    return type(numbers)(*(change(t) for t in numbers.parts().values()))


def _rows(values: Tensor) -> Tensor:
    """Cut what has one axis into rows, the last one filled up with zeros."""
    if values.dim() > 1:
        return values
    padded = torch.nn.functional.pad(values, (0, -len(values) % ROW))
    return padded.view(-1, ROW)


def _quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    if rows.shape[-1] == 0:
        return rows.to(torch.int8), rows.new_zeros(rows.shape[:-1])
    largest = rows.abs().amax(-1)
    # a number over a tensor is, in torch, the number times a rounded inverse
    factor = torch.full_like(largest, LARGEST) / largest
    usable = factor.isfinite()  # else the row is zero, or as good as that
    codes = (rows * factor.where(usable, 0.0)[..., None]).round().to(torch.int8)
    return codes, largest.where(usable, 0.0)


def _decoded(codes: Tensor, scales: Tensor) -> Tensor:
    return codes * scales[..., None] * UNIT


def _check(codes: Tensor, scales: Tensor) -> None:
    if not bool((scales.isfinite() & (scales >= 0)).all()):
        raise FactorError("a scale is negative or not finite")
    if bool((codes == -LARGEST - 1).any()):
        raise FactorError("a code is -128")
