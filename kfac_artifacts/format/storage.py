"""Storage codecs: how the fields of a factor become bytes (``spec/storage/``).

A structure says which fields make up a factor, and what their numbers are; a storage
says how each is written; ``format/coding.py`` writes and reads the numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import Field, Role
from kfac_artifacts.factors.fields import scales_of

DTYPES = ("float32", "float16", "bfloat16")
INT8 = "int8"
STORAGES = (*DTYPES, *(f"symmetric-{name}" for name in DTYPES), INT8)
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4}
"""Size of a number, by the name of its type."""


@dataclass(frozen=True)
class TensorInfo:
    """Number type, by its name, and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * BYTES[self.dtype]


@dataclass(frozen=True)
class Storage:
    """A codec: a number type, and whether only the upper triangle is kept.

    Attributes:
        dtype: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
        symmetric: Keep rows ``i`` and columns ``j >= i`` of symmetric matrices, in row
            order: half the bytes, nothing lost. ``int8`` does so in any case.
    """

    dtype: str
    symmetric: bool = False

    @classmethod
    def parse(cls, name: str) -> "Storage":
        """Read a name such as ``float16``, ``symmetric-float16`` or ``int8``.

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

    def fits(self, fields: Mapping[str, Field]) -> bool:
        """Whether there is anything for this codec among the fields of a structure."""
        matrices = any(field.role is Role.MATRIX for field in fields.values())
        return matrices or not self.symmetric

    def for_fields(self, fields: Mapping[str, Field]) -> "Storage":
        """This codec, or its plain form where no field is a symmetric matrix."""
        return self if self.fits(fields) else Storage(self.dtype)

    def tensors(self, field: Field) -> dict[str, TensorInfo]:
        """Describe the tensors of a field, by what is added to its name for them."""
        shape = field.shape
        match field.role:
            case Role.BITS:
                return {"": TensorInfo("uint8", shape)}
            case Role.INDICES:
                return {"": TensorInfo("int32", shape)}
        if self.dtype != INT8:
            packed = self.symmetric and field.role is Role.MATRIX
            stored = triangle_shape(shape, 0) if packed else shape
            return {"": TensorInfo(self.dtype, stored)}
        if field.role is Role.WEIGHTS:
            return {"": TensorInfo("bfloat16", shape)}
        if field.role is Role.ENTRIES:
            return {
                "": TensorInfo("int8", shape),
                ".scales": TensorInfo("float32", (scales_of(shape),)),
            }
        row = TensorInfo("float32", shape[:-1])
        codes = TensorInfo("int8", triangle_shape(shape, 1))
        return {"": codes, ".scales": row, ".diagonal": row}


def triangle_shape(shape: tuple[int, ...], above: int) -> tuple[int, ...]:
    """Shape of packed matrices ``[..., s, s]``, from the ``above``-th diagonal on."""
    size = shape[-1] - above
    return (*shape[:-2], size * (size + 1) // 2)
