"""Floats of one type, matrices in full (``spec/storage/float32.md`` and its like)."""

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from kfac_artifacts.factors import Field, Role
from kfac_artifacts.format.storage.base import Storage, TensorInfo, Tensors, Values


@final
@dataclass(frozen=True)
class Floats(Storage):
    """Every number as a float of one type.

    Attributes:
        dtype: What torch calls the type.
    """

    dtype: str

    @property
    @override
    def name(self) -> str:
        return self.dtype

    @property
    @override
    def exact(self) -> bool:
        return self.dtype == "float32"

    @override
    def layout(self, field: Field) -> dict[str, TensorInfo]:
        return {"": TensorInfo(self.dtype, field.shape)}

    @override
    def write(self, values: Values, field: Field) -> Tensors:
        from kfac_artifacts.format.storage import arithmetic

        exact = arithmetic.exact(values)
        if field.role is Role.MATRIX:
            # every storage keeps the upper triangle, whatever a product has rounded
            upper = arithmetic.to_triangle(arithmetic.symmetric(exact), 0)
            exact = arithmetic.from_triangle(upper, field.shape, 0)
        return {"": arithmetic.rounded(exact, self.dtype)}

    @override
    def read(self, tensors: Tensors, field: Field) -> Values:
        return tensors[""].float()


FLOAT32 = Floats("float32")
BFLOAT16 = Floats("bfloat16")
FLOAT16 = Floats("float16")
