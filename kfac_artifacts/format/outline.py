"""What can be told of an artifact that has names of third parties (format.md, 12.1).

Nobody can decode, merge or train with what nobody here knows; but whoever got such an
artifact wants to know what it is of, and what is unknown in it.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kfac_artifacts.artifact import Block, NamedConfig, Provenance
from kfac_artifacts.canonical import digest_of
from kfac_artifacts.format.consistency import (
    check_file_names,
    check_fit,
    check_sources,
)
from kfac_artifacts.format.factor_info import FactorInfo, factor_from_json
from kfac_artifacts.format.files import read_json
from kfac_artifacts.format.header import check_sizes
from kfac_artifacts.format.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    FileInfo,
    block_from_json,
    check_version,
    file_info,
    provenance_from_json,
)
from kfac_artifacts.json_object import JsonObject, dimension
from kfac_artifacts.names import is_foreign


@dataclass(frozen=True)
class Unknown:
    """A name that only a third party knows.

    Attributes:
        what: What it is the name of, such as ``structure``.
        name: The name.
        where: The block, factor or source that has it; None for the estimator.
    """

    what: str
    name: str
    where: str | None = None


@dataclass(frozen=True)
class ForeignFactor:
    """A factor whose structure or storage is not known."""

    dim: int
    structure: NamedConfig
    storage: NamedConfig


@dataclass(frozen=True)
class Outline:
    """What an artifact says of itself, as far as its names are known.

    Attributes:
        provenance: Where it comes from.
        blocks: The blocks of known kinds, by name.
        kinds: The kind of every block.
        factors: How factors are stored, by name.
        unknown: The names that are not known.
        nbytes: Size of its tensor files, in bytes.
        digest: That of the manifest: ``sha256:`` and 64 digits.
    """

    provenance: Provenance
    blocks: Mapping[str, Block]
    kinds: Mapping[str, str]
    factors: Mapping[str, FactorInfo | ForeignFactor]
    unknown: tuple[Unknown, ...]
    nbytes: int
    digest: str

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every covered parameter with its shape."""
        return self.provenance.base.shapes


def read_outline(path: str | Path) -> Outline | None:
    """Read what can be told of an artifact with names that are not known here.

    Args:
        path: The artifact's directory.

    Returns:
        The outline; None if no name of a third party is in the way, so that it can be
        read in full, or refused with a reason.

    Raises:
        FormatError: If something else breaks ``spec/format.md``. Whether the blocks
            cover everything, and the headers of tensor files, are not looked at.
    """
    file = Path(path) / MANIFEST
    if not file.is_file():
        return None
    value = read_json(file)
    unknown = tuple(_unknown(value))
    if not unknown:
        return None
    outline, files = _outlined(value, unknown)
    check_file_names(files)
    check_sizes(Path(path), files)
    return outline


def _unknown(value: object) -> Iterator[Unknown]:
    """Every name of a third party where only known ones can be read in full."""
    manifest = _object(value)
    named: list[tuple[str, str | None, object]] = [
        ("estimator", None, manifest.get("estimator"))
    ]
    named += [
        ("cotangents", f"source {number}", _object(source).get("cotangents"))
        for number, source in enumerate(_array(manifest.get("sources")), 1)
    ]
    named += [
        (what, factor, _object(about).get(what))
        for factor, about in _object(manifest.get("factors")).items()
        for what in ("structure", "storage")
    ]
    found = [(what, _object(own).get("name"), where) for what, where, own in named]
    found += [
        ("kind", _object(block).get("kind"), name)
        for name, block in _object(manifest.get("blocks")).items()
    ]
    for what, name, where in found:
        if is_foreign(name):
            yield Unknown(what, str(name), where)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _array(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _outlined(
    value: dict[str, Any], unknown: tuple[Unknown, ...]
) -> tuple[Outline, dict[str, FileInfo]]:
    fields = JsonObject(_with_known_names(value), "manifest")
    check_version(fields, FORMAT, VERSION)
    provenance = _with_own_names(provenance_from_json(fields), value)
    check_sources(provenance)
    blocks = fields.each("blocks", _block)
    factors = fields.each("factors", _factor)
    files = fields.each("files", file_info)
    fields.finish(extensible=True)
    known = {n: b for n, b in blocks.items() if not isinstance(b, str)}
    dims = {name: info.dim for name, info in factors.items()}
    structures = {name: info.structure for name, info in factors.items()}
    check_fit(provenance, known, dims, structures)
    outline = Outline(
        provenance,
        known,
        {n: b if isinstance(b, str) else b.kind for n, b in blocks.items()},
        factors,
        unknown,
        sum(info.size for info in files.values()),
        digest_of(value),
    )
    return outline, files


def _with_known_names(value: dict[str, Any]) -> dict[str, Any]:
    """Let known names stand for those of third parties, where only the name matters."""
    known = copy.deepcopy(value)
    estimator = _object(known.get("estimator"))
    if is_foreign(estimator.get("name")):
        estimator["name"] = "kfac"
    for source in _array(known.get("sources")):
        cotangents = _object(_object(source).get("cotangents"))
        if is_foreign(cotangents.get("name")):
            cotangents["name"] = "exact" if cotangents.get("draws") is None else "mc"
    return known


def _with_own_names(provenance: Provenance, value: dict[str, Any]) -> Provenance:
    names = [source["cotangents"]["name"] for source in value["sources"]]
    return replace(
        provenance,
        estimator=replace(provenance.estimator, name=value["estimator"]["name"]),
        sources=tuple(
            replace(source, cotangents=replace(source.cotangents, name=name))
            for source, name in zip(provenance.sources, names, strict=True)
        ),
    )


def _block(value: object, where: str) -> Block | str:
    """A block, or only its kind if that is a third party's."""
    kind = _object(value).get("kind")
    return str(kind) if is_foreign(kind) else block_from_json(value, where)


def _factor(value: object, where: str) -> FactorInfo | ForeignFactor:
    named = (_object(_object(value).get(what)) for what in ("structure", "storage"))
    if not any(is_foreign(own.get("name")) for own in named):
        return factor_from_json(value, where)[0]
    fields = JsonObject(value, where)
    structure, storage = (
        NamedConfig.from_json(fields.take(what, dict), f"{where}.{what}")
        for what in ("structure", "storage")
    )
    dim = dimension(fields.take("dim", int), f"{where}.dim")
    fields.optional("loss", dict)
    fields.finish()
    return ForeignFactor(dim, structure, storage)
