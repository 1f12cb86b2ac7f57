"""A byte per entry, with a scale for each row (``spec/storage/int8.md``)."""

from typing import final

from typing_extensions import override

from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import Field, Role, scales_of
from kfac_artifacts.format.storage.base import (
    Storage,
    TensorInfo,
    Tensors,
    Values,
    triangle_shape,
)
from kfac_artifacts.format.storage.floats import BFLOAT16


@final
class Int8(Storage):
    """Codes and scales; of matrices one triangle, and their diagonals as they are.

    Weights, which are few and of any magnitude, are stored as bfloat16.
    """

    name = "int8"
    compresses = True

    @override
    def layout(self, field: Field) -> dict[str, TensorInfo]:
        shape = field.shape
        if field.role is Role.WEIGHTS:
            return BFLOAT16.layout(field)
        if field.role is Role.ENTRIES:
            scales = TensorInfo("float32", (scales_of(shape),))
            return {"": TensorInfo("int8", shape), ".scales": scales}
        row = TensorInfo("float32", shape[:-1])
        codes = TensorInfo("int8", triangle_shape(shape, 1))
        return {"": codes, ".scales": row, ".diagonal": row}

    @override
    def write(self, values: Values, field: Field) -> Tensors:
        if field.role is Role.WEIGHTS:
            return BFLOAT16.write(values, field)
        from torch import Tensor

        from kfac_artifacts.factors import int8
        from kfac_artifacts.format.storage import arithmetic

        kind = int8.Int8Matrix if field.role is Role.MATRIX else int8.Int8Entries
        if isinstance(values, Tensor):
            exact = arithmetic.finite(values)
            if field.role is Role.MATRIX:
                arithmetic.symmetric(exact)
            values = kind.of(exact)
        if values.scales.numel() and not float(values.scales.max()) <= int8.MAX_SCALE:
            raise FormatError(
                "int8 cannot hold values beyond 2**121; store them as float32"
            )
        tensors = {suffix: t.cpu().contiguous() for suffix, t in values.parts().items()}
        codes = tensors.pop("")
        if field.role is Role.MATRIX:
            codes = arithmetic.to_triangle(codes, 1)
        return {"": codes} | {suffix: t.float() for suffix, t in tensors.items()}

    @override
    def read(self, tensors: Tensors, field: Field) -> Values:
        if field.role is Role.WEIGHTS:
            return BFLOAT16.read(tensors, field)
        from kfac_artifacts.factors import Int8Entries, Int8Matrix
        from kfac_artifacts.format.storage import arithmetic

        codes, scales = tensors[""], tensors[".scales"]
        found: Int8Entries | Int8Matrix
        if field.role is Role.MATRIX:
            codes = arithmetic.from_triangle(codes, field.shape, 1)
            found = Int8Matrix(codes, scales, tensors[".diagonal"])
        else:
            found = Int8Entries(codes, scales)
        try:
            found.check()
        except FactorError as error:
            raise FormatError(str(error)) from error
        return found


INT8 = Int8()
