"""Storage codecs: how one tensor of a factor becomes bytes (``spec/storage/``).

A structure says which tensors make up a factor; a storage says how each is written.
Decoding always gives float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.errors import FormatError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
MAX_LOSS = 2.0**-7
"""Largest relative error of a codec; beyond it, float16 has lost small values."""
MAX_ASYMMETRY = 1e-4
"""Largest ``‖M - Mᵀ‖ / ‖M‖`` of which only the upper triangle may be kept."""


@dataclass(frozen=True)
class Storage:
    """A codec: a number type, and whether only the upper triangle is kept.

    Attributes:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        symmetric: Keep rows ``i`` and columns ``j >= i`` of a symmetric matrix, in row
            order: half the bytes, nothing lost.
    """

    dtype: str
    symmetric: bool = False

    @classmethod
    def parse(cls, name: str) -> "Storage":
        """Read a name such as ``float16`` or ``symmetric-float16``.

        Args:
            name: One of ``STORAGES``; ``symmetric`` alone is of float32.

        Returns:
            The codec.

        Raises:
            FormatError: If there is no such codec.
        """
        full = "symmetric-float32" if name == "symmetric" else name
        if full not in STORAGES:
            raise FormatError(
                f"there is no storage {name!r}; choose one of {', '.join(STORAGES)}"
            )
        dtype = full.removeprefix("symmetric-")
        return cls(dtype, symmetric=dtype != full)

    @property
    def name(self) -> str:
        """What ``parse`` reads."""
        return f"symmetric-{self.dtype}" if self.symmetric else self.dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        """Number type of the stored tensor."""
        return DTYPES[self.dtype]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be stored so."""
        return not self.symmetric or (len(shape) == 2 and shape[0] == shape[1])

    def for_shape(self, shape: tuple[int, ...]) -> "Storage":
        """This codec, or its plain form for a tensor that is no square matrix."""
        return self if self.fits(shape) else Storage(self.dtype)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        if not self.symmetric:
            return shape
        return (shape[0] * (shape[0] + 1) // 2,)

    def encode(self, tensor: Tensor) -> Tensor:
        """Turn a tensor into the one that is stored, contiguous and on the CPU.

        Args:
            tensor: Finite values; a symmetric matrix if ``symmetric``.

        Returns:
            A tensor of ``stored_shape`` and ``torch_dtype``.

        Raises:
            FormatError: If a value is not finite, the number type cannot hold it, or
                half of a matrix that is not symmetric would be lost.
        """
        exact = tensor.detach().to("cpu", torch.float64)
        if self.symmetric:
            _check_symmetric(exact)
            rows, columns = _upper_triangle(exact.shape[0])
            exact = exact[rows, columns]
        stored = exact.to(self.torch_dtype)
        loss = (stored.double() - exact).norm()
        if not loss <= MAX_LOSS * exact.norm():
            raise FormatError(
                f"{self.dtype} cannot hold these values (from {exact.abs().min():.1e} "
                f"to {exact.abs().max():.1e}); store them as bfloat16 or float32"
            )
        return stored.contiguous()

    def decode(self, stored: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Turn a stored tensor back into one of ``shape``, in float32."""
        values = stored.to(torch.float32)
        if not self.symmetric:
            return values
        matrix = torch.empty(shape, dtype=torch.float32)
        rows, columns = _upper_triangle(shape[0])
        matrix[rows, columns] = values
        matrix[columns, rows] = values
        return matrix


STORAGES = (*DTYPES, *(f"symmetric-{name}" for name in DTYPES))


def _check_symmetric(matrix: Tensor) -> None:
    loss = (matrix - matrix.mT).norm()
    if not loss <= MAX_ASYMMETRY * matrix.norm():
        raise FormatError(
            f"the matrix is not symmetric or not finite (‖M - Mᵀ‖ is {loss:.1e}); "
            "half of it would be lost"
        )


def _upper_triangle(dim: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(dim, dim)
    return rows, columns
