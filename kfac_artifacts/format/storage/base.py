"""What a storage says of itself without torch, and how it writes and reads a field.

A structure tells which fields a factor has, and what role their numbers play; a storage
tells for every role which tensors are written.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.factors import Field, Role

if TYPE_CHECKING:
    from torch import Tensor

    from kfac_artifacts.factors import Numbers

    Values: TypeAlias = Numbers
    Tensors: TypeAlias = Mapping[str, Tensor]
else:
    Values = object  # a header is read without torch
    Tensors = Mapping

BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
}
"""Size of a number, by what torch calls its type."""
UNCHANGED = {Role.BITS: "uint8", Role.INDICES: "int32"}
"""Number types of what every storage writes as it is."""


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


class Storage(ABC):
    """How matrices, entries and weights become tensors; see ``Role``.

    Tensors are named by what is added to the name of their field, the first by nothing.
    Subclasses import torch when they write or read.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``STORAGES`` calls it."""

    @property
    def described(self) -> NamedConfig:
        """What the manifest says of it; no other storage says the same."""
        return NamedConfig(self.name, {})

    @property
    def exact(self) -> bool:
        """Whether numbers in float32 come back as they were."""
        return False

    @property
    def compresses(self) -> bool:
        """Whether rounding to it is a loss to be recorded and made up for."""
        return False

    def fits(self, fields: Mapping[str, Field]) -> bool:
        """Whether a structure of these fields may be stored so."""
        return True

    def for_fields(self, fields: Mapping[str, Field]) -> "Storage":
        """This storage, or what stands for it where it does not fit."""
        return self

    def tensors(self, field: Field) -> dict[str, TensorInfo]:
        """Describe the tensors that a field is written as."""
        if field.role in UNCHANGED:
            return {"": TensorInfo(UNCHANGED[field.role], field.shape)}
        return self.layout(field)

    def encode(self, values: Values, field: Field) -> Tensors:
        """Turn a field into the tensors that are stored, contiguous and on the CPU.

        Args:
            values: Finite numbers; symmetric matrices if that is the field's role.
            field: Its shape and role.

        Returns:
            Tensors as ``tensors`` describes them.

        Raises:
            FormatError: If a value is not finite, the number type cannot hold it, or
                half of a matrix that is not symmetric would be lost.
        """
        if field.role in UNCHANGED:
            from kfac_artifacts.factors import floats

            return {"": floats(values).cpu().contiguous()}
        return self.write(values, field)

    def decode(self, tensors: Tensors, field: Field) -> Values:
        """Turn stored tensors back into a field, in float32 or int8.

        Args:
            tensors: What ``encode`` gave.
            field: Shape and role.

        Returns:
            The field.

        Raises:
            FormatError: If the numbers are such as no encoding gives.
        """
        return tensors[""] if field.role in UNCHANGED else self.read(tensors, field)

    @abstractmethod
    def layout(self, field: Field) -> dict[str, TensorInfo]:
        """Describe the tensors of matrices, entries or weights."""

    @abstractmethod
    def write(self, values: Values, field: Field) -> Tensors:
        """Encode matrices, entries or weights; see ``encode``."""

    @abstractmethod
    def read(self, tensors: Tensors, field: Field) -> Values:
        """Decode matrices, entries or weights; see ``decode``."""


def packed(name: str) -> str:
    """Name the storage that keeps one triangle of matrices, and else is the same.

    Args:
        name: One of ``STORAGES``.

    Returns:
        The name; the given one if there is no such storage.
    """
    symmetric = f"symmetric-{name}"
    return symmetric if symmetric in STORAGES else name


def triangle_shape(shape: tuple[int, ...], above: int) -> tuple[int, ...]:
    """Shape of packed matrices ``[..., s, s]``, from the ``above``-th diagonal on."""
    size = shape[-1] - above
    return (*shape[:-2], size * (size + 1) // 2)
