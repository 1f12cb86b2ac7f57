"""The manifest ``kfac.json``: the one source of meaning (``spec/format.md``)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kfac_artifacts.artifact import (
    BLOCKS,
    BaseModel,
    Block,
    Cotangents,
    DataInfo,
    MergeError,
    NamedConfig,
    ParameterInfo,
    Provenance,
    Source,
)
from kfac_artifacts.canonical import DIGEST
from kfac_artifacts.choices import (
    COTANGENTS,
    ESTIMATORS,
    NO_COTANGENTS,
    UNKNOWN_COTANGENTS,
    WEIGHTINGS,
)
from kfac_artifacts.format.consistency import (
    check_factors,
    check_file_names,
    check_provenance,
)
from kfac_artifacts.format.derived import derived_from_json, derived_to_json
from kfac_artifacts.format.factor_info import (
    FactorInfo,
    factor_from_json,
    factor_to_json,
)
from kfac_artifacts.format.privacy import privacy_from_json, privacy_to_json
from kfac_artifacts.json_object import (
    JsonObject,
    check_name,
    dimension,
)
from kfac_artifacts.names import hint

FORMAT = "kfac-artifact"
VERSION = 1
MANIFEST = "kfac.json"
SIGNATURE = "model.sig"
"""What ``kfac sign`` leaves beside the manifest, which does not name it."""
MAX_AXES = 8


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and sha256 of a file of the artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about an artifact but the numbers in its factors."""

    provenance: Provenance
    blocks: Mapping[str, Block]
    factors: Mapping[str, FactorInfo]
    files: Mapping[str, FileInfo]


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Write a manifest as JSON, in the order of the specification."""
    provenance = manifest.provenance
    base = provenance.base
    return {
        "format": FORMAT,
        "version": VERSION,
        "base_model": base_to_json(base),
        "output_map": asdict(provenance.output_map),
        "estimator": asdict(provenance.estimator),
        "tasks": provenance.tasks,
        "size": provenance.size,
        "sources": [_source_to_json(source) for source in provenance.sources],
        "excluded": list(provenance.excluded),
        "uncovered": dict(provenance.uncovered),
        **_told_weighting(provenance),
        "merge_errors": {n: asdict(e) for n, e in provenance.merge_errors.items()},
        "blocks": {n: b.to_json() for n, b in manifest.blocks.items()},
        "factors": {
            n: factor_to_json(f, provenance.losses.get(n))
            for n, f in manifest.factors.items()
        },
        "files": {n: asdict(f) for n, f in manifest.files.items()},
    }


def _source_to_json(source: Source) -> dict[str, Any]:
    return {
        "data": asdict(source.data),
        "cotangents": asdict(source.cotangents),
        "digest": source.digest,
        **privacy_to_json(source.privacy),
    }


def _told_weighting(provenance: Provenance) -> dict[str, str]:
    """The weighting, where it is not the usual one."""
    usual = provenance.weighting == WEIGHTINGS[0]
    return {} if usual else {"weighting": provenance.weighting}


def base_to_json(base: BaseModel) -> dict[str, Any]:
    """Write the description of a pretrained model."""
    parameters = {
        n: {"shape": list(p.shape), "sha256": p.sha256}
        for n, p in base.parameters.items()
    }
    return {
        "id": base.id,
        "revision": base.revision,
        "sha256": base.sha256,
        "parameters": parameters,
        **derived_to_json(base),
    }


def manifest_from_json(value: object) -> Manifest:
    """Read and check a manifest.

    Args:
        value: Parsed JSON of ``kfac.json``.

    Returns:
        The manifest; everything that can be checked without the tensors holds.

    Raises:
        FormatError: If a MUST of ``spec/format.md`` is broken; the first one is named.
    """
    fields = JsonObject(value, "manifest")
    check_version(fields, FORMAT, VERSION)
    provenance = provenance_from_json(fields)
    blocks = fields.each("blocks", block_from_json)
    factors = fields.each("factors", factor_from_json)
    files = fields.each("files", file_info)
    fields.finish(extensible=True)
    check_file_names(files)
    check_provenance(provenance, blocks)
    infos = {name: info for name, (info, _) in factors.items()}
    dims = {name: info.dim for name, info in infos.items()}
    structures = {name: info.structure for name, info in infos.items()}
    check_factors(provenance, blocks, dims, structures)
    losses = {name: loss for name, (_, loss) in factors.items() if loss is not None}
    return Manifest(replace(provenance, losses=losses), blocks, infos, files)


def provenance_from_json(fields: JsonObject) -> Provenance:
    """Take where an artifact comes from out of its manifest, without the losses."""
    base = base_from_json(fields.take("base_model", dict), "base_model")
    output_map = NamedConfig.from_json(fields.take("output_map", dict), "output_map")
    estimator = NamedConfig.from_json(fields.take("estimator", dict), "estimator")
    known = estimator.name in ESTIMATORS
    fields.require(
        known,
        f"estimator {estimator.name!r} is not one of {tuple(ESTIMATORS)}"
        f"{hint(estimator.name)}",
    )
    return Provenance(
        base=base,
        output_map=output_map,
        estimator=estimator,
        tasks=fields.count("tasks"),
        size=fields.count("size"),
        sources=fields.list_of("sources", _source),
        excluded=fields.list_of("excluded", check_name),
        uncovered=fields.each("uncovered", check_name),
        merge_errors=fields.each("merge_errors", _merge_error),
        weighting=_weighting(fields),
    )


def check_version(fields: JsonObject, name: str, version: int) -> None:
    """Refuse another format, and a version that this reader does not know."""
    found = fields.take("format", str)
    fields.require(found == name, f"format is {found!r}, not {name!r}")
    number = fields.count("version")
    fields.require(
        number == version,
        f"version {number} of {name} is not known here (only {version}); "
        "a newer kfac-artifacts may read it",
    )


def base_from_json(value: object, where: str) -> BaseModel:
    """Read the description of a pretrained model, and check its overall hash."""
    fields = JsonObject(value, where)
    identity, revision = fields.name("id"), fields.maybe_name("revision")
    digest = fields.sha256("sha256")
    parameters = fields.each("parameters", _parameter)
    derived = derived_from_json(fields)
    fields.finish(extensible=True)
    base = BaseModel(identity, revision, parameters, derived)
    fields.require(base.sha256 == digest, "sha256 is not that of the parameters")
    return base


def _parameter(value: object, where: str) -> ParameterInfo:
    fields = JsonObject(value, where)
    shape = fields.list_of("shape", dimension)
    fields.require(len(shape) <= MAX_AXES, f"shape has more than {MAX_AXES} axes")
    info = ParameterInfo(shape, fields.sha256("sha256"))
    fields.finish()
    return info


def _source(value: object, where: str) -> Source:
    fields = JsonObject(value, where)
    data = _data(fields.take("data", dict), f"{where}.data")
    cotangents = _cotangents(fields.take("cotangents", dict), f"{where}.cotangents")
    digest = fields.maybe("digest", str)
    fields.require(
        digest is None or bool(DIGEST.fullmatch(digest)),
        "digest must be sha256: with 64 digits 0-9a-f, or null",
    )
    privacy = privacy_from_json(fields)
    fields.finish(extensible=True)
    return Source(data, cotangents, digest, privacy)


def _data(value: object, where: str) -> DataInfo:
    fields = JsonObject(value, where)
    preprocessing = fields.take("preprocessing", dict)
    info = DataInfo(
        id=fields.name("id"),
        config=fields.maybe_name("config"),
        split=fields.maybe_name("split"),
        fingerprint=fields.sha256("fingerprint"),
        examples=fields.count("examples"),
        size=fields.count("size"),
        preprocessing=NamedConfig.from_json(preprocessing, f"{where}.preprocessing"),
    )
    fields.require(info.examples <= info.size, "examples must not exceed size")
    fields.finish(extensible=True)
    return info


def _cotangents(value: object, where: str) -> Cotangents:
    fields = JsonObject(value, where)
    name, draws = fields.name("name"), fields.maybe("draws", int)
    cotangents = Cotangents(name, draws, fields.count("seed", least=0))
    known = *COTANGENTS, NO_COTANGENTS, UNKNOWN_COTANGENTS
    listed = ", ".join(known)
    fields.require(name in known, f"name must be one of {listed}{hint(name)}")
    drawn = name not in {"exact", NO_COTANGENTS, UNKNOWN_COTANGENTS}
    fields.require(
        drawn == (draws is not None),
        "exact, none and unknown have null draws, others a number",
    )
    within = draws is None or 1 <= draws < 2**53
    fields.require(within, "draws must be from 1 to 2**53 - 1")
    fields.finish()
    return cotangents


def _weighting(fields: JsonObject) -> str:
    found = fields.optional("weighting", str) or WEIGHTINGS[0]
    known = ", ".join(WEIGHTINGS)
    fields.require(found in WEIGHTINGS, f"weighting must be one of {known}")
    return found


def _merge_error(value: object, where: str) -> MergeError:
    fields = JsonObject(value, where)
    error = MergeError(fields.number("relative"), fields.number("bound"))
    fields.finish()
    return error


def block_from_json(value: object, where: str) -> Block:
    """Read a block of a known kind."""
    fields = JsonObject(value, where)
    kind = fields.take("kind", str)
    fields.require(kind in BLOCKS, f"kind {kind!r} is not known{hint(kind)}")
    block = BLOCKS[kind].from_json(fields)
    fields.finish()
    return block


def file_info(value: object, where: str) -> FileInfo:
    """Read the size and the hash of a file."""
    fields = JsonObject(value, where)
    info = FileInfo(fields.count("size", least=8), fields.sha256("sha256"))
    fields.finish()
    return info
