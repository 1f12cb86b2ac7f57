"""How a factor is stored, as the manifest says it (``spec/format.md``, 7.6)."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from kfac_artifacts.artifact import Loss, NamedConfig
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import SHAPES, Field
from kfac_artifacts.format.json_object import JsonObject, dimension, named
from kfac_artifacts.format.storage import DTYPES, INT8, Storage, TensorInfo


@dataclass(frozen=True)
class FactorInfo:
    """Structure with its configuration, size, and the codec of the fields."""

    structure: NamedConfig
    dim: int
    storage: Storage

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Shape and role of every field, before storage."""
        shapes = SHAPES[self.structure.name]
        return shapes(self.dim, self.structure.configuration)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Number type and shape of every stored tensor, by field and suffix."""
        return {
            name + suffix: info
            for name, field in self.fields.items()
            for suffix, info in self.storage.tensors(field).items()
        }

    @property
    def nbytes(self) -> int:
        """Size on disk, in bytes."""
        return sum(info.nbytes for info in self.tensors.values())


def factor_info(structure: NamedConfig, dim: int, codec: Storage) -> FactorInfo:
    """Say how a factor is stored: by the codec, or its plain form if no matrix."""
    fields = SHAPES[structure.name](dim, structure.configuration)
    return FactorInfo(structure, dim, codec.for_fields(fields))


def factor_to_json(info: FactorInfo, loss: Loss | None) -> dict[str, Any]:
    """Write the description of a factor, and what compressing it lost."""
    storage: dict[str, Any] = {"name": info.storage.dtype, "configuration": {}}
    if info.storage.symmetric:
        configuration = {"dtype": info.storage.dtype}
        storage = {"name": "symmetric", "configuration": configuration}
    structure = asdict(info.structure)
    found = {"dim": info.dim, "structure": structure, "storage": storage}
    return found if loss is None else found | {"loss": asdict(loss)}


def factor_from_json(value: object, where: str) -> tuple[FactorInfo, Loss | None]:
    """Read and check the description of a factor.

    Args:
        value: Parsed JSON.
        where: Where it was found, for the error.

    Returns:
        How it is stored, and what compressing it lost, if that is told.

    Raises:
        FormatError: If it is malformed, or says what cannot be.
    """
    fields = JsonObject(value, where)
    dim = dimension(fields.take("dim", int), f"{where}.dim")
    structure = named(fields.take("structure", dict), f"{where}.structure")
    known = structure.name in SHAPES
    names = ", ".join(SHAPES)
    fields.require(known, f"structure {structure.name!r} is not one of {names}")
    storage = _storage(fields.take("storage", dict), f"{where}.storage")
    loss = _loss(fields.optional("loss", dict), f"{where}.loss")
    fields.finish()
    info = FactorInfo(structure, dim, storage)
    try:
        fits = storage.fits(info.fields)
    except FactorError as error:
        message = f"{where}: structure {structure.name!r}: {error}"
        raise FormatError(message) from error
    fields.require(fits, f"{structure.name} cannot be stored as symmetric")
    return info, loss


def _storage(value: object, where: str) -> Storage:
    storage = named(value, where)
    fields = JsonObject(storage.configuration, f"{where}.configuration")
    plain = (*DTYPES, INT8)
    if storage.name in plain:
        fields.finish()
        return Storage(storage.name)
    known = storage.name == "symmetric"
    fields.require(known, f"{storage.name!r} is not one of {plain} or 'symmetric'")
    dtype = fields.take("dtype", str)
    fields.require(dtype in DTYPES, f"dtype {dtype!r} is not known")
    fields.finish()
    return Storage(dtype, symmetric=True)


def _loss(value: object, where: str) -> Loss | None:
    if value is None:
        return None
    fields = JsonObject(value, where)
    loss = Loss(
        error=fields.number("error"),
        min_eigenvalue=fields.number("min_eigenvalue", signed=True),
        lift=fields.number("lift"),
    )
    fields.finish()
    return loss
