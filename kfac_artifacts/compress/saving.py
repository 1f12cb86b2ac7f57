"""Saving artifacts: as they are, in another storage, or compressed."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress.budget import Budget, choose_recipes
from kfac_artifacts.compress.compress_artifact import compress
from kfac_artifacts.compress.forms import Keep
from kfac_artifacts.compress.recipes import Recipe
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import DEFAULT_STORAGE, MAX_SHARD_BYTES, write_artifact
from kfac_artifacts.places import check_free, workspace
from kfac_artifacts.progress import Advance, unseen


def save_artifact(  # noqa: PLR0913 - as many arguments as there are choices
    artifact: Artifact,
    path: str | Path,
    *,
    storage: str | None = None,
    recipe: Recipe | Mapping[str, Recipe] | Budget | str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    replace: bool = False,
    allow_indefinite: bool = False,
    progress: Advance = unseen,
    fitness: bool = False,
) -> None:
    """Write an artifact as a directory that appears whole or not at all.

    Storing as int8 is compressing, too: the artifact tells what that lost, and no
    eigenvalue is rounded to less than zero.

    Args:
        artifact: What to write; its factors are asked for one at a time.
        path: The directory; links are followed.
        storage: One of ``STORAGES``. None keeps what factors are stored as; of those in
            memory one triangle, in float32.
        recipe: How to compress: a recipe, its name, one for every factor, or a budget
            that chooses them. It says how numbers are stored as well.
        max_shard_bytes: Size in bytes above which several tensor files are written.
        replace: Whether what this package wrote there may be replaced.
        allow_indefinite: Whether a factor may be one that ``verify`` refuses.
        progress: Called with 1 after every factor, and with a budget twice.
        fitness: Whether to measure, and to write down, for what else than a penalty
            compressed factors are fit: 13 s for one of 3072 rows on one core.

    Raises:
        PlaceError: If the place is taken or cannot be written.
        FormatError: If a value does not fit the storage, or a factor that is not
            compressed is clearly indefinite; it is named.
        SettingsError: If there is no such storage or recipe, both are given, or the
            budget cannot be kept.
    """
    check_free(path, replace=replace)
    if storage is not None and recipe is not None:
        raise SettingsError("a recipe says how numbers are stored; give no storage")
    how = Recipe.parse(recipe) if isinstance(recipe, str) else recipe
    how = how or _rounding(artifact, storage)
    write = partial(
        write_artifact,
        path=path,
        max_shard_bytes=max_shard_bytes,
        replace=replace,
        allow_indefinite=allow_indefinite,
    )
    if how is None:
        write(artifact, storage=storage, progress=progress)
        return
    with workspace(path) as directory:
        if isinstance(how, Budget):
            how = choose_recipes(artifact, how, progress)
        write(compress(artifact, how, directory, progress, fitness=fitness))


def _rounding(artifact: Artifact, storage: str | None) -> dict[str, Recipe] | None:
    """Recipes that keep every structure, if storing a factor so is compressing it."""
    names = {
        factor: storage or artifact.factors.storage(factor) or DEFAULT_STORAGE
        for factor in artifact.factors
    }
    if not any(STORAGES[name].compresses for name in names.values()):
        return None
    plain = {f: name.removeprefix("symmetric-") for f, name in names.items()}
    return {factor: Recipe(Keep(), name) for factor, name in plain.items()}
