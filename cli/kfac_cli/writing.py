"""Writing an artifact as it is or compressed: what several commands end with."""

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
    recipe: "Recipe | Budget | None",
    what: str,
    max_shard_bytes: int,
    replace: bool,
    allow_indefinite: bool = False,
    shown: bool = True,
    storage: str | None = None,
    fitness: bool = False,
) -> None:
    """Write an artifact with a bar, compressing it on the way if there is a recipe."""
    from kfac_artifacts.compress import Budget, save_artifact

    steps = len(artifact.factors) * (2 if isinstance(recipe, Budget) else 1)
    what = what if recipe is None else "compressing"
    with console.progress(what, steps, "factors", shown=shown) as advance:
        save_artifact(
            artifact,
            output,
            storage=storage,
            recipe=recipe,
            max_shard_bytes=max_shard_bytes,
            replace=replace,
            allow_indefinite=allow_indefinite,
            progress=advance,
            fitness=fitness,
        )
