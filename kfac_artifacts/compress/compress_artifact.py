"""Compressing artifacts, one factor in memory at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from kfac_artifacts.artifact import Artifact, Loss
from kfac_artifacts.compress.compress_factor import compress_factor
from kfac_artifacts.compress.corrected import KeptVectors
from kfac_artifacts.compress.originals import originals
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.format import (
    FactorInfo,
    StoredFactors,
    encode_factor,
    stored,
    write_tensors,
)
from kfac_artifacts.lineage import named_sources
from kfac_artifacts.progress import Advance, unseen


def compress(
    artifact: Artifact,
    recipe: Recipe | Mapping[str, Recipe],
    workspace: Path,
    progress: Advance = unseen,
    *,
    fitness: bool = False,
) -> Artifact:
    """Compress every factor, and keep the results in files.

    Args:
        artifact: What to compress.
        recipe: One for all, or one for every factor by name.
        workspace: A directory for the results, one file for each; it must stay there
            for as long as the artifact is used.
        progress: Called with 1 after every factor.
        fitness: Whether to measure for what else than a penalty the factors are fit;
            for those of 3072 rows that takes far longer than compressing them.

    Returns:
        The compressed artifact; its factors are read when they are asked for.

    Raises:
        FormatError: If a storage cannot hold the values.
    """
    infos: dict[str, FactorInfo] = {}
    files: dict[str, str] = {}
    losses = dict(artifact.provenance.losses)
    kept = KeptVectors(artifact, fitness=fitness)
    for number, (name, original) in enumerate(originals(artifact)):
        own = recipe if isinstance(recipe, Recipe) else recipe[name]
        narrowed = kept.narrowed(name, original)
        try:
            found = compress_factor(narrowed, own, fitness=fitness)
        except (FactorError, FormatError) as error:
            raise FormatError(f"{name}: {error}") from error
        kept.remember(name, original, found.factor)
        found = kept.with_cut(name, original, narrowed, found)
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
        artifact.provenance, losses=losses, sources=named_sources(artifact)
    )
    return dataclasses.replace(
        artifact, provenance=provenance, factors=factors, digest=None
    )


def _added(before: Loss | None, now: Loss) -> Loss:
    """What two compressions have lost together; of the errors an upper bound."""
    if before is None:
        return now
    # for what the result is fit is not known: of that there are no bounds
    error = before.error + now.error * (1 + before.error)
    return Loss(error, now.min_eigenvalue, now.lift)
