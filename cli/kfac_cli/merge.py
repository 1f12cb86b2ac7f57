"""``kfac merge``: several artifacts to one of the same size."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import WEIGHTINGS
from kfac_artifacts.errors import listed
from kfac_cli import console
from kfac_cli.given import check_artifacts
from kfac_cli.groups import group
from kfac_cli.options import (
    CompressedOptions,
    WriteOptions,
    allow_indefinite_option,
    json_option,
)
from kfac_cli.parameters import DIRECTORY
from kfac_cli.tables import print_table
from kfac_cli.units import size
from kfac_cli.writing import write

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.format import Header


@click.command("merge")
@click.argument("artifacts", type=DIRECTORY, nargs=-1, required=True)
@group(WriteOptions)
@click.option(
    "--exclude",
    type=DIRECTORY,
    multiple=True,
    metavar="DIRECTORY",
    help="Take the tasks of this artifact back out; may be repeated.",
)
@click.option(
    "--weights",
    "weighting",
    type=click.Choice(WEIGHTINGS),
    help="What inputs A are weighed by: sizes of datasets, or the positions that "
    "were used.  [default: as in the totals among them, or size]",
)
@allow_indefinite_option
@group(CompressedOptions)
@json_option
def command(
    artifacts: tuple[Path, ...],
    writing: WriteOptions,
    exclude: tuple[Path, ...],
    weighting: str | None,
    allow_indefinite: bool,
    storing: CompressedOptions,
    as_json: bool,
) -> None:
    """Merge ARTIFACTS of one base model, keeping the size of one.

    Tasks are weighted by the sizes of their datasets (TAK, Eq. 8). The result can be
    merged again, and a task can be taken out again. With `--weights positions` the
    inputs A are a mean over all tokens or patches that were used of all tasks, so that
    sums are kept exactly.

    \b
    Example:
        kfac merge tickets mails chats -o total
        kfac merge total --exclude tickets -o others
        kfac merge wiki code --weights positions -o statistics
    """
    recipe = storing.parse()
    writing.check_free([*artifacts, *exclude])
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
            weighting=weighting,
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
        writing.output,
        recipe=recipe,
        what="merging",
        storage=storing.storage,
        max_shard_bytes=storing.max_shard_bytes,
        replace=writing.force,
        allow_indefinite=allow_indefinite,
    )
    _report(writing.output, read_header(writing.output), as_json=as_json)


def _described(artifact: "Artifact") -> str:
    """Say in a line what was read."""
    from kfac_artifacts.artifact import task_names

    sources = artifact.provenance.sources
    tasks = [
        f"{name} ({source.data.examples} of {source.data.size} examples)"
        for name, source in zip(task_names(sources), sources, strict=True)
    ]
    return listed(tasks, 10)


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
    by_size = merged.provenance.weighting == WEIGHTINGS[0]
    title = (
        "effective weight" if by_size else "share of size; A is weighed by positions"
    )
    print_table(["task", title], rows)
    if worst is not None:
        values = sorted(error.relative for error in errors.values())
        error = errors[worst]
        click.echo(
            f"\nrelative error of the merge: median {values[len(values) // 2]:.3f}, "
            f"largest {error.relative:.3f} (bound {error.bound:.3f}) in {worst}"
        )
    nbytes = size(overview(merged)["bytes"])
    click.echo(f"{output}: {merged.provenance.tasks} tasks, {nbytes}")
