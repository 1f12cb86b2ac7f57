"""Numbers to bytes and back, as ``Storage`` says (``spec/storage/``)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import (
    Factor,
    Field,
    Int8Entries,
    Int8Matrix,
    Numbers,
    Role,
    check_factor,
    floats,
)
from kfac_artifacts.factors.int8 import MAX_SCALE
from kfac_artifacts.format.factor_info import FactorInfo
from kfac_artifacts.format.storage import INT8, Storage
from kfac_artifacts.format.triangle import (
    check_symmetric,
    from_triangle,
    to_triangle,
)

TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
MAX_LOSS = 2.0**-7
"""Largest relative error of a number type; beyond it, float16 has lost small values."""


def encode(storage: Storage, numbers: Numbers, field: Field) -> dict[str, Tensor]:
    """Turn a field into the tensors that are stored, contiguous and on the CPU.

    Args:
        storage: The codec.
        numbers: Finite values; symmetric matrices if that is the field's role.
        field: Its shape and role.

    Returns:
        Tensors as ``Storage.tensors`` describes them.

    Raises:
        FormatError: If a value is not finite, the number type cannot hold it, or
            half of a matrix that is not symmetric would be lost.
    """
    if field.role in {Role.BITS, Role.INDICES}:
        return {"": floats(numbers).cpu().contiguous()}
    if storage.dtype == INT8 and field.role is not Role.WEIGHTS:
        return _int8_tensors(numbers, field)
    exact = floats(numbers).detach().to("cpu", torch.float64)
    if field.role is Role.MATRIX:
        check_symmetric(exact)
        # every storage keeps the upper triangle, whatever a product has rounded
        upper = to_triangle(exact, 0)
        exact = upper if storage.symmetric else from_triangle(upper, field.shape, 0)
    return {"": _rounded(exact, TYPES.get(storage.dtype, torch.bfloat16))}


def decode(storage: Storage, tensors: Mapping[str, Tensor], field: Field) -> Numbers:
    """Turn stored tensors back into a field, in float32 or int8.

    Args:
        storage: The codec.
        tensors: What ``encode`` gave.
        field: Shape and role.

    Returns:
        The field.

    Raises:
        FormatError: If scales or codes are such as no encoding gives.
    """
    if field.role in {Role.BITS, Role.INDICES}:
        return tensors[""]
    if storage.dtype == INT8 and field.role is not Role.WEIGHTS:
        return _int8_numbers(tensors, field)
    values = tensors[""].to(torch.float32)
    if storage.symmetric and field.role is Role.MATRIX:
        return from_triangle(values, field.shape, 0)
    return values


def rounded(factor: Factor, storage: Storage) -> Factor:
    """Give a factor as it is after writing and reading it.

    Args:
        factor: The factor.
        storage: The codec; the plain form of it if there is no matrix.

    Returns:
        The same in float32 or int8, on the CPU.

    Raises:
        FormatError: If it cannot be stored so.
    """
    shapes = factor.shapes
    own = storage.for_fields(shapes)
    fields = {
        name: decode(own, encode(own, numbers, shapes[name]), shapes[name])
        for name, numbers in factor.fields().items()
    }
    return type(factor).from_fields(fields, factor.configuration)


def encode_factor(info: FactorInfo, factor: Factor) -> Iterator[tuple[str, Tensor]]:
    """Turn a factor into what is stored of it, tensor by tensor.

    Args:
        info: How it is stored.
        factor: A factor of that structure and size.

    Yields:
        The tensors that ``info.tensors`` describes, in that order.

    Raises:
        FormatError: If a value does not fit the storage, or no reader would take
            the factor.
    """
    try:
        check_factor(factor)
    except FactorError as error:
        raise FormatError(str(error)) from error
    for name, numbers in factor.fields().items():
        for suffix, tensor in encode(info.storage, numbers, info.fields[name]).items():
            yield name + suffix, tensor


def _int8_tensors(numbers: Numbers, field: Field) -> dict[str, Tensor]:
    kind = Int8Matrix if field.role is Role.MATRIX else Int8Entries
    if isinstance(numbers, Tensor):
        exact = numbers.detach().to("cpu", torch.float32)
        if not bool(exact.isfinite().all()):
            raise FormatError("a value is not finite, or too large for float32")
        if kind is Int8Matrix:
            check_symmetric(exact)
        numbers = kind.of(exact)
    if numbers.scales.numel() and not float(numbers.scales.max()) <= MAX_SCALE:
        raise FormatError(
            "int8 cannot hold values beyond 2**121; store them as float32"
        )
    tensors = {suffix: t.cpu().contiguous() for suffix, t in numbers.parts().items()}
    if kind is Int8Matrix:
        tensors[""] = to_triangle(tensors[""], 1)
    stored = {".scales": torch.float32, ".diagonal": torch.float32}
    return {k: t.to(stored.get(k, torch.int8)) for k, t in tensors.items()}


def _int8_numbers(tensors: Mapping[str, Tensor], field: Field) -> Numbers:
    numbers: Int8Entries | Int8Matrix
    if field.role is Role.MATRIX:
        codes = from_triangle(tensors[""], field.shape, 1)
        numbers = Int8Matrix(codes, tensors[".scales"], tensors[".diagonal"])
    else:
        numbers = Int8Entries(tensors[""], tensors[".scales"])
    try:
        numbers.check()
    except FactorError as error:
        raise FormatError(str(error)) from error
    return numbers


def _rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    stored = exact.to(dtype)
    largest = exact.abs().max() if exact.numel() else exact.new_zeros(())
    unit = largest.where(largest > 0, 1.0)  # so that no square is beyond float64
    loss, size = ((stored.double() - exact) / unit).norm(), (exact / unit).norm()
    if not (bool(stored.isfinite().all()) and loss <= MAX_LOSS * size):
        name = next(name for name, kind in TYPES.items() if kind is dtype)
        raise FormatError(
            f"{name} cannot hold these values (from {exact.abs().min():.1e} "
            f"to {exact.abs().max():.1e}); store them as bfloat16 or float32"
        )
    return stored.contiguous()
