"""Writing an artifact as it is or compressed: what several commands end with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kfac_cli import console

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.compress import Budget, Recipe


def write(
    artifact: "Artifact",
    output: Path,
    *,
    recipe: "Recipe | Mapping[str, Recipe] | Budget | None",
    what: str,
    shown: bool = True,
    storage: str | None = None,
    max_shard_bytes: int,
    replace: bool,
) -> None:
    """Write an artifact with a bar, compressing it on the way if there is a recipe.

    Storing as int8 is compressing, too: it tells its loss, and rewards no drift.
    """
    from kfac_artifacts.compress import Budget, save_compressed
    from kfac_artifacts.format import save_artifact

    factors = len(artifact.factors)
    recipe = recipe or _int8(artifact, storage)
    if recipe is None:
        with console.progress(what, factors, "factors", shown=shown) as advance:
            save_artifact(
                artifact,
                output,
                storage=storage,
                max_shard_bytes=max_shard_bytes,
                replace=replace,
                progress=lambda _: advance(1),
            )
        return
    steps = 2 * factors if isinstance(recipe, Budget) else factors
    with console.progress("compressing", steps, "factors", shown=shown) as advance:
        save_compressed(
            artifact,
            output,
            recipe,
            max_shard_bytes=max_shard_bytes,
            replace=replace,
            progress=advance,
        )


def _int8(artifact: "Artifact", storage: str | None) -> "dict[str, Recipe] | None":
    """The recipes of an artifact of which factors are to be stored as int8."""
    from kfac_artifacts.compress import Recipe

    names = {f: storage or artifact.storage(f) or "float32" for f in artifact.factors}
    if "int8" not in names.values():
        return None
    return {
        f: Recipe.parse(name.removeprefix("symmetric-")) for f, name in names.items()
    }
