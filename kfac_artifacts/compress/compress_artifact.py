"""Compressing artifacts, one factor in memory at a time."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from kfac_artifacts.artifact import (
    Artifact,
    Loss,
    Source,
)
from kfac_artifacts.compress.budget import Budget, choose
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.originals import originals
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.format import MAX_SHARD_BYTES, StoredFactors, save_artifact
from kfac_artifacts.format.coding import encode_factor
from kfac_artifacts.format.factor_info import FactorInfo, stored
from kfac_artifacts.format.tensors import write_tensors
from kfac_artifacts.places import check_free, workspace

Progress = Callable[[int], None]


def save_compressed(
    artifact: Artifact,
    path: str | Path,
    how: Recipe | Mapping[str, Recipe] | Budget | str,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    replace: bool = False,
    progress: Progress = lambda _: None,
) -> None:
    """Compress an artifact into a directory that appears whole or not at all.

    Args:
        artifact: What to compress; its factors are asked for one at a time.
        path: The directory to write; links are followed.
        how: A recipe, its name, one for every factor, or a budget that chooses them.
        max_shard_bytes: Size in bytes above which several tensor files are written.
        replace: Whether what this package wrote there may be replaced.
        progress: Told after every factor, once for a recipe and twice for a budget.

    Raises:
        PlaceError: If the place is taken or cannot be written.
        FormatError: If a value does not fit the storage.
        SettingsError: If there is no such recipe, or the budget cannot be kept.
    """
    check_free(path, replace=replace)
    recipe = Recipe.parse(how) if isinstance(how, str) else how
    with workspace(path) as directory:
        compressed = compress(
            artifact,
            choose(artifact, recipe, progress)
            if isinstance(recipe, Budget)
            else recipe,
            directory,
            progress,
        )
        save_artifact(
            compressed, path, max_shard_bytes=max_shard_bytes, replace=replace
        )


def compress(
    artifact: Artifact,
    recipe: Recipe | Mapping[str, Recipe],
    workspace: Path,
    progress: Progress = lambda _: None,
) -> Artifact:
    """Compress every factor, and keep the results in files.

    Args:
        artifact: What to compress.
        recipe: One for all, or one for every factor by name.
        workspace: A directory for the results, one file for each; it must stay there
            for as long as the artifact is used.
        progress: Told after every factor.

    Returns:
        The compressed artifact; its factors are read when they are asked for.

    Raises:
        FormatError: If a storage cannot hold the values.
    """
    infos: dict[str, FactorInfo] = {}
    files: dict[str, str] = {}
    losses = dict(artifact.provenance.losses)
    for number, (name, original) in enumerate(originals(artifact)):
        own = recipe if isinstance(recipe, Recipe) else recipe[name]
        try:
            found = compress_factor(original, own)
        except (FactorError, FormatError) as error:
            raise FormatError(f"{name}: {error}") from error
        infos[name] = found.info
        announced, file = stored({name: found.info}), f"{number}.safetensors"
        tensors = encode_factor(name, found.info, found.factor)
        write_tensors(workspace / file, announced, tensors)
        files |= dict.fromkeys(announced, file)
        if found.loss is not None:
            losses[name] = _added(losses.get(name), found.loss)
        progress(1)
    factors = StoredFactors(workspace, infos, files)
    provenance = dataclasses.replace(
        artifact.provenance, losses=losses, sources=_named_sources(artifact)
    )
    return dataclasses.replace(
        artifact, provenance=provenance, factors=factors, digest=None
    )


def _named_sources(artifact: Artifact) -> tuple[Source, ...]:
    """The tasks; a single one is known by the artifact that is compressed here."""
    # so that either can be taken out of a total, and both are not counted twice
    sources = artifact.provenance.sources
    if len(sources) > 1 or sources[0].digest is not None:
        return sources
    return (dataclasses.replace(sources[0], digest=artifact.digest),)


def _added(before: Loss | None, now: Loss) -> Loss:
    """What two compressions have lost together; of the errors an upper bound."""
    if before is None:
        return now
    error = before.error + now.error * (1 + before.error)
    return Loss(error, now.min_eigenvalue, now.lift)
