"""``kfac merge``: several artifacts to one of the same size."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli import console
from kfac_cli.given import check_artifacts
from kfac_cli.options import (
    DIRECTORY,
    json_option,
    recipe_option,
    storage_options,
    write_options,
)
from kfac_cli.writing import check_choice, write

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.format import Header


@click.command("merge")
@click.argument("artifacts", type=DIRECTORY, nargs=-1, required=True)
@write_options
@click.option(
    "--exclude",
    type=DIRECTORY,
    multiple=True,
    help="Take this artifact's tasks back out; may be repeated.",
)
@click.option(
    "--allow-indefinite",
    is_flag=True,
    help="Merge factors that clearly reward drift along some directions.",
)
@storage_options
@recipe_option
@json_option
def command(
    artifacts: tuple[Path, ...],
    output: Path,
    force: bool,
    exclude: tuple[Path, ...],
    allow_indefinite: bool,
    storage: str | None,
    recipe: str | None,
    max_shard_size: float,
    as_json: bool,
) -> None:
    """Merge ARTIFACTS of one base model, keeping the size of one.

    Tasks are weighted by the sizes of their datasets (TAK, Eq. 8). The result can be
    merged again, and a task can be taken out again.

    \b
    Example:
        kfac merge tickets mails chats -o total
        kfac merge total --exclude tickets -o others
    """
    from kfac_artifacts.places import check_free

    how = check_choice(recipe, storage)
    check_free(output, replace=force, inputs=[*artifacts, *exclude])
    check_artifacts([*artifacts, *exclude])
    from kfac_artifacts.format import load_artifact, read_header
    from kfac_artifacts.merge import merge

    added, removed = (
        [load_artifact(p) for p in artifacts],
        [load_artifact(p) for p in exclude],
    )
    with console.progress("comparing", len(added[0].blocks), "modules") as advance:
        merged = merge(
            added,
            exclude=removed,
            allow_indefinite=allow_indefinite,
            progress=advance,
        )
    for what, paths, read in (
        ("add", artifacts, added),
        ("take out", exclude, removed),
    ):
        for path, artifact in zip(paths, read, strict=True):
            click.echo(f"{what} {path}: {_described(artifact)}", err=True)
    write(
        merged,
        output,
        recipe=how,
        what="merging",
        storage=storage,
        max_shard_bytes=int(max_shard_size * 10**9),
        replace=force,
    )
    _report(output, read_header(output), as_json=as_json)


def _described(artifact: "Artifact") -> str:
    """Say in a line what was read."""
    from kfac_artifacts.artifact import task_names

    sources = artifact.provenance.sources
    tasks = [
        f"{name} ({source.data.examples} of {source.data.size} examples)"
        for name, source in zip(task_names(sources), sources, strict=True)
    ]
    more = f" and {len(tasks) - 10} more" if len(tasks) > 10 else ""
    return ", ".join(tasks[:10]) + more


def _report(output: Path, merged: "Header", *, as_json: bool) -> None:
    from kfac_artifacts.merge import weights
    from kfac_cli.inspect import overview

    errors = merged.provenance.merge_errors
    worst = max(errors, key=lambda name: errors[name].relative, default=None)
    if as_json:
        result = overview(merged)
        result["merge_errors"] = {name: vars(error) for name, error in errors.items()}
        result["warnings"] = console.SPOKEN.said
        console.print_json(result)
        return
    rows = [[name, f"{w:.4f}"] for name, w in weights(merged.provenance).items()]
    console.print_table(["task", "effective weight"], rows)
    if worst is not None:
        values = sorted(error.relative for error in errors.values())
        error = errors[worst]
        click.echo(
            f"\nrelative error of the merge: median {values[len(values) // 2]:.3f}, "
            f"largest {error.relative:.3f} (bound {error.bound:.3f}) in {worst}"
        )
    size = console.size(overview(merged)["bytes"])
    click.echo(f"{output}: {merged.provenance.tasks} tasks, {size}")
