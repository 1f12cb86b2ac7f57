"""Storage codecs: how the fields of a factor become bytes (``spec/storage/``).

A structure says which fields make up a factor, and what their numbers are; a storage
says how each is written. Decoded numbers are float32, or stay int8 until they are used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import (
    Factor,
    Field,
    Int8Entries,
    Int8Matrix,
    Leaf,
    Role,
    floats,
)
from kfac_artifacts.factors.int8 import MAX_SCALE
from kfac_artifacts.format.triangle import (
    check_symmetric,
    from_triangle,
    to_triangle,
    triangle_shape,
)

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
INT8 = "int8"
STORAGES = (*DTYPES, *(f"symmetric-{name}" for name in DTYPES), INT8)
MAX_LOSS = 2.0**-7
"""Largest relative error of a number type; beyond it, float16 has lost small values."""


@dataclass(frozen=True)
class TensorInfo:
    """Number type and shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


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
                return {"": TensorInfo(torch.uint8, shape)}
            case Role.INDICES:
                return {"": TensorInfo(torch.int32, shape)}
        if self.dtype != INT8:
            packed = self.symmetric and field.role is Role.MATRIX
            stored = triangle_shape(shape, 0) if packed else shape
            return {"": TensorInfo(DTYPES[self.dtype], stored)}
        if field.role is Role.WEIGHTS:
            return {"": TensorInfo(torch.bfloat16, shape)}
        if field.role is Role.ENTRIES:
            return {
                "": TensorInfo(torch.int8, shape),
                ".scales": TensorInfo(torch.float32, (Int8Entries.count(shape),)),
            }
        row = TensorInfo(torch.float32, shape[:-1])
        codes = TensorInfo(torch.int8, triangle_shape(shape, 1))
        return {"": codes, ".scales": row, ".diagonal": row}

    def encode(self, leaf: Leaf, field: Field) -> dict[str, Tensor]:
        """Turn a field into the tensors that are stored, contiguous and on the CPU.

        Args:
            leaf: Finite values; symmetric matrices if that is the field's role.
            field: Its shape and role.

        Returns:
            Tensors as ``tensors`` describes them.

        Raises:
            FormatError: If a value is not finite, the number type cannot hold it, or
                half of a matrix that is not symmetric would be lost.
        """
        if field.role in {Role.BITS, Role.INDICES}:
            return {"": floats(leaf).cpu().contiguous()}
        if self.dtype == INT8 and field.role is not Role.WEIGHTS:
            return _int8_tensors(leaf, field)
        exact = floats(leaf).detach().to("cpu", torch.float64)
        if field.role is Role.MATRIX:
            check_symmetric(exact)
            # every storage keeps the upper triangle, whatever a product has rounded
            upper = to_triangle(exact, 0)
            exact = upper if self.symmetric else from_triangle(upper, field.shape, 0)
        return {"": _rounded(exact, DTYPES.get(self.dtype, torch.bfloat16))}

    def decode(self, tensors: Mapping[str, Tensor], field: Field) -> Leaf:
        """Turn stored tensors back into a field, in float32 or int8.

        Args:
            tensors: What ``encode`` gave.
            field: Shape and role.

        Returns:
            The field.

        Raises:
            FormatError: If scales or codes are such as no encoding gives.
        """
        if field.role in {Role.BITS, Role.INDICES}:
            return tensors[""]
        if self.dtype == INT8 and field.role is not Role.WEIGHTS:
            return _int8_leaf(tensors, field)
        values = tensors[""].to(torch.float32)
        if self.symmetric and field.role is Role.MATRIX:
            return from_triangle(values, field.shape, 0)
        return values

    def rounded(self, factor: Factor) -> Factor:
        """Give a factor as it is after writing and reading it.

        Args:
            factor: The factor.

        Returns:
            The same in float32 or int8, on the CPU.

        Raises:
            FormatError: If it cannot be stored so.
        """
        fields = type(factor).fields(factor.dim, factor.configuration)
        own = self.for_fields(fields)
        leaves = {
            name: own.decode(own.encode(leaf, fields[name]), fields[name])
            for name, leaf in factor.leaves().items()
        }
        return type(factor).of_leaves(leaves, factor.configuration)


def _int8_tensors(leaf: Leaf, field: Field) -> dict[str, Tensor]:
    kind = Int8Matrix if field.role is Role.MATRIX else Int8Entries
    if isinstance(leaf, Tensor):
        exact = leaf.detach().to("cpu", torch.float32)
        if not bool(exact.isfinite().all()):
            raise FormatError("a value is not finite, or too large for float32")
        if kind is Int8Matrix:
            check_symmetric(exact)
        leaf = kind.of(exact)
    if leaf.scales.numel() and not float(leaf.scales.max()) <= MAX_SCALE:
        raise FormatError(
            "int8 cannot hold values beyond 2**121; store them as float32"
        )
    tensors = {suffix: t.cpu().contiguous() for suffix, t in leaf.parts().items()}
    if kind is Int8Matrix:
        tensors[""] = to_triangle(tensors[""], 1)
    stored = {".scales": torch.float32, ".diagonal": torch.float32}
    return {k: t.to(stored.get(k, torch.int8)) for k, t in tensors.items()}


def _int8_leaf(tensors: Mapping[str, Tensor], field: Field) -> Leaf:
    leaf: Int8Entries | Int8Matrix
    if field.role is Role.MATRIX:
        codes = from_triangle(tensors[""], field.shape, 1)
        leaf = Int8Matrix(codes, tensors[".scales"], tensors[".diagonal"])
    else:
        leaf = Int8Entries(tensors[""], tensors[".scales"])
    try:
        leaf.check()
    except FactorError as error:
        raise FormatError(str(error)) from error
    return leaf


def _rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    stored = exact.to(dtype)
    largest = exact.abs().max() if exact.numel() else exact.new_zeros(())
    unit = largest.where(largest > 0, 1.0)  # so that no square is beyond float64
    loss, size = ((stored.double() - exact) / unit).norm(), (exact / unit).norm()
    if not (bool(stored.isfinite().all()) and loss <= MAX_LOSS * size):
        name = next(name for name, kind in DTYPES.items() if kind is dtype)
        raise FormatError(
            f"{name} cannot hold these values (from {exact.abs().min():.1e} "
            f"to {exact.abs().max():.1e}); store them as bfloat16 or float32"
        )
    return stored.contiguous()
