"""Floats of one type, matrices by a triangle (``spec/storage/symmetric.md``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.factors import Field, Role
from kfac_artifacts.format.storage.base import (
    Storage,
    TensorInfo,
    Tensors,
    Values,
    triangle_shape,
)
from kfac_artifacts.format.storage.floats import BFLOAT16, FLOAT16, FLOAT32, Floats


@final
@dataclass(frozen=True)
class Symmetric(Storage):
    """Rows ``i`` and columns ``j >= i`` of matrices: half the bytes, nothing lost.

    Attributes:
        plain: How everything else is stored.
    """

    plain: Floats

    @property
    @override
    def name(self) -> str:
        return f"symmetric-{self.plain.dtype}"

    @property
    @override
    def described(self) -> NamedConfig:
        return NamedConfig("symmetric", {"dtype": self.plain.dtype})

    @property
    @override
    def exact(self) -> bool:
        return self.plain.exact

    @override
    def fits(self, fields: Mapping[str, Field]) -> bool:
        return any(field.role is Role.MATRIX for field in fields.values())

    @override
    def for_fields(self, fields: Mapping[str, Field]) -> Storage:
        return self if self.fits(fields) else self.plain

    @override
    def layout(self, field: Field) -> dict[str, TensorInfo]:
        if field.role is not Role.MATRIX:
            return self.plain.layout(field)
        return {"": TensorInfo(self.plain.dtype, triangle_shape(field.shape, 0))}

    @override
    def write(self, values: Values, field: Field) -> Tensors:
        if field.role is not Role.MATRIX:
            return self.plain.write(values, field)
        from kfac_artifacts.format.storage import arithmetic

        upper = arithmetic.exact_triangle(values)
        return {"": arithmetic.rounded(upper, self.plain.dtype)}

    @override
    def read(self, tensors: Tensors, field: Field) -> Values:
        if field.role is not Role.MATRIX:
            return self.plain.read(tensors, field)
        from kfac_artifacts.format.storage import arithmetic

        return arithmetic.from_triangle(tensors[""].float(), field.shape, 0)


SYMMETRIC_FLOAT32 = Symmetric(FLOAT32)
SYMMETRIC_BFLOAT16 = Symmetric(BFLOAT16)
SYMMETRIC_FLOAT16 = Symmetric(FLOAT16)
