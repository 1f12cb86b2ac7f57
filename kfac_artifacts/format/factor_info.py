"""How a factor is stored, as the manifest says it (``spec/format.md``, 7.6)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from kfac_artifacts.artifact import Loss, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import SHAPES, Field
from kfac_artifacts.format.storage.base import Storage, TensorInfo
from kfac_artifacts.json_object import JsonObject, dimension
from kfac_artifacts.names import hint


@dataclass(frozen=True)
class FactorInfo:
    """Structure with its configuration, size, and how the fields are stored."""

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


def factor_info(structure: NamedConfig, dim: int, storage: Storage) -> FactorInfo:
    """Say how a factor is stored: so, or by what stands for that if it does not fit."""
    fields = SHAPES[structure.name](dim, structure.configuration)
    return FactorInfo(structure, dim, storage.for_fields(fields))


def stored(factors: Mapping[str, FactorInfo]) -> dict[str, TensorInfo]:
    """Name and describe the stored tensors of factors: ``<factor>/<field>``."""
    return {
        f"{name}/{key}": about
        for name, info in factors.items()
        for key, about in info.tensors.items()
    }


def factor_to_json(info: FactorInfo, loss: Loss | None) -> dict[str, Any]:
    """Write the description of a factor, and what compressing it lost."""
    structure, storage = asdict(info.structure), asdict(info.storage.described)
    found = {"dim": info.dim, "structure": structure, "storage": storage}
    if loss is None:
        return found
    known = {
        name: number for name, number in asdict(loss).items() if number is not None
    }
    return found | {"loss": known}


def factor_from_json(value: object, where: str) -> tuple[FactorInfo, Loss | None]:
    """Read and check the description of a factor.

    Args:
        value: Parsed JSON.
        where: Where it was found, for the error.

    Returns:
        How it is stored, and what compressing it lost, if that is recorded.

    Raises:
        FormatError: If it is malformed, or says what cannot be.
    """
    fields = JsonObject(value, where)
    dim = dimension(fields.take("dim", int), f"{where}.dim")
    structure = NamedConfig.from_json(
        fields.take("structure", dict), f"{where}.structure"
    )
    known = structure.name in SHAPES
    names = ", ".join(SHAPES) + hint(structure.name)
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
    fields.require(fits, f"{structure.name} cannot be stored as {storage.name}")
    return info, loss


def _storage(value: object, where: str) -> Storage:
    found = NamedConfig.from_json(value, where)
    for storage in STORAGES.values():
        if storage.described == found:
            return storage
    configuration = dict(found.configuration)
    raise FormatError(
        f"{where}: {found.name!r} with {configuration} is none of "
        f"{', '.join(STORAGES)}{hint(found.name)}"
    )


def _loss(value: object, where: str) -> Loss | None:
    if value is None:
        return None
    fields = JsonObject(value, where)
    loss = Loss(
        error=fields.number("error"),
        min_eigenvalue=fields.number("min_eigenvalue", signed=True),
        lift=fields.number("lift"),
        inverse_error=fields.optional_number("inverse_error"),
        null_overlap=fields.optional_number("null_overlap"),
        diagonal_error=fields.optional_number("diagonal_error"),
    )
    overlap = loss.null_overlap
    fields.require(
        overlap is None or overlap <= 1, f"null_overlap is {overlap}, which is above 1"
    )
    fields.finish()
    return loss
