"""Writing an artifact: beside its place, tensor by tensor, same input same bytes."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.format.coding import check_verifiable, encode_factor
from kfac_artifacts.format.consistency import INDEX, shard_names
from kfac_artifacts.format.factor_info import FactorInfo, factor_info, stored
from kfac_artifacts.format.files import dump_json, sha256_file, write_durably
from kfac_artifacts.format.manifest import (
    MANIFEST,
    FileInfo,
    Manifest,
    manifest_from_json,
    to_json,
)
from kfac_artifacts.format.tensors import write_tensors
from kfac_artifacts.places import check_free, new_directory
from kfac_artifacts.progress import Advance, unseen

MAX_SHARD_BYTES = 5 * 10**9
DEFAULT_STORAGE = "symmetric-float32"


def write_artifact(
    artifact: Artifact,
    path: str | Path,
    *,
    storage: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    replace: bool = False,
    allow_indefinite: bool = False,
    progress: Advance = unseen,
) -> None:
    """Write an artifact as a directory that appears whole or not at all.

    Numbers are rounded to the storage, and nothing else happens to them; see
    ``kfac_artifacts.save_artifact``.

    Args:
        artifact: What to write; its factors are asked for one at a time.
        path: The directory; links are followed.
        storage: One of ``STORAGES``; a factor that it does not fit takes what stands
            for it. None keeps what factors are stored as, or ``DEFAULT_STORAGE``.
        max_shard_bytes: Size in bytes above which several tensor files are written.
        replace: Whether what this package wrote there may be replaced.
        allow_indefinite: Whether a factor may be one that ``verify`` refuses.
        progress: Called with 1 after every factor.

    Raises:
        PlaceError: If the place is taken or cannot be written.
        FormatError: If a value does not fit the storage, or a factor that is in no sum
            of terms has eigenvalues more negative than rounding explains.
    """
    check_free(path, replace=replace)
    infos = _factor_infos(artifact, storage)
    sums = (block for block in artifact.blocks.values() if block.is_sum)
    of_any_sign = {factor for block in sums for factor in block.factors}
    definite = set() if allow_indefinite else set(infos) - of_any_sign
    with new_directory(path, replace=replace) as directory:
        files: dict[str, FileInfo] = {}
        shards = _shards(infos, max_shard_bytes)
        for name, factors in shards.items():
            tensors = _tensors(artifact, factors, definite, progress)
            files[name] = write_tensors(directory / name, stored(factors), tensors)
        if len(shards) > 1:
            index = dump_json(weight_map(shards))
            write_durably(directory / INDEX, index)
            files[INDEX] = FileInfo(len(index), sha256_file(directory / INDEX))
        manifest = Manifest(artifact.provenance, artifact.blocks, infos, files)
        value = to_json(manifest)
        manifest_from_json(value)  # what is written can be read
        write_durably(directory / MANIFEST, dump_json(value))


def weight_map(shards: dict[str, dict[str, FactorInfo]]) -> dict[str, object]:
    """Say which file holds which tensor, as transformers' sharded models do."""
    infos = [info for factors in shards.values() for info in factors.values()]
    return {
        "metadata": {"total_size": sum(info.nbytes for info in infos)},
        "weight_map": {
            key: file for file, factors in shards.items() for key in stored(factors)
        },
    }


def _factor_infos(artifact: Artifact, storage: str | None) -> dict[str, FactorInfo]:
    """Describe every factor, in the order of the blocks, each once."""
    infos: dict[str, FactorInfo] = {}
    for block in artifact.blocks.values():
        shapes, structure = artifact.parameters, artifact.factors.structure
        for name, dim in block.all_sizes(shapes, structure):
            if name not in infos:
                own = STORAGES[
                    storage or artifact.factors.storage(name) or DEFAULT_STORAGE
                ]
                infos[name] = factor_info(artifact.factors.structure(name), dim, own)
    return infos


def _shards(
    infos: dict[str, FactorInfo], limit: int
) -> dict[str, dict[str, FactorInfo]]:
    """Deal the factors out to files of at most ``limit`` bytes, or of one factor."""
    shards: list[dict[str, FactorInfo]] = [{}]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = info
        size += info.nbytes
    return dict(zip(shard_names(len(shards)), shards, strict=True))


def _tensors(
    artifact: Artifact,
    factors: dict[str, FactorInfo],
    definite: set[str],
    progress: Advance,
) -> Iterator[tuple[str, Tensor]]:
    for name, info in factors.items():
        factor = artifact.factors[name]
        yield from encode_factor(name, info, factor)
        if name in definite:
            check_verifiable(name, info, factor)
        progress(1)
