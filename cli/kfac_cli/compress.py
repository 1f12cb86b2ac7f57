"""``kfac compress``: an artifact that is small on disk, in memory and in training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.given import check_artifacts, check_vectors
from kfac_cli.groups import group, option
from kfac_cli.options import (
    WriteOptions,
    json_option,
    max_shard_option,
    task_vectors_option,
)
from kfac_cli.parameters import DIRECTORY, Share, Size
from kfac_cli.tables import print_table
from kfac_cli.units import size
from kfac_cli.writing import write

if TYPE_CHECKING:
    from torch import Tensor

    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.compress import Budget, Recipe, Report, Spread
    from kfac_artifacts.format import Header

FITNESS = ("inverse", "null", "diagonal")
"""What measures of fitness are called in a table: two errors, and an overlap."""


@dataclass(frozen=True)
class KeepOptions:
    """What is kept: by a recipe, or as much as a budget allows."""

    recipe: str | None = option(
        "--recipe", metavar="NAME", help="What to keep, and how to store it."
    )
    max_size: int | None = option(
        "--max-size",
        type=Size(),
        help="Choose per factor what keeps most in this size of all files.",
    )
    max_error: float | None = option(
        "--max-error",
        type=Share(),
        help="Choose per factor what is smallest at this relative error of all "
        "together.",
    )

    def parse(self) -> "Recipe | Budget":
        """Read it before any work is done."""
        from kfac_artifacts.compress import DEFAULT_RECIPE, Recipe

        if sum(value is not None for value in vars(self).values()) > 1:
            raise click.UsageError("give one of --recipe, --max-size and --max-error")
        if self.max_size is None and self.max_error is None:
            return Recipe.parse(self.recipe or DEFAULT_RECIPE)
        from kfac_artifacts.compress import Budget

        return Budget(self.max_size, self.max_error)


@click.command("compress")
@click.argument("artifact", type=DIRECTORY)
@group(WriteOptions)
@group(KeepOptions)
@task_vectors_option
@click.option(
    "--report/--no-report",
    default=True,
    help="Whether to compare what was written with what there was.",
)
@click.option(
    "--fitness/--no-fitness",
    default=True,
    help="Whether to measure, and to write down, for what else than a penalty the "
    "result is fit (13 s for a factor of 3072 rows, 1 s for one of 768).",
)
@max_shard_option
@json_option
def command(
    artifact: Path,
    writing: WriteOptions,
    keeping: KeepOptions,
    task_vectors: tuple[Path, ...],
    report: bool,
    fitness: bool,
    max_shard_bytes: int,
    as_json: bool,
) -> None:
    """Compress ARTIFACT, and tell what that loses. The default recipe is `small`.

    \b
    Recipes:
        small, tiny             low-rank-32+int8, low-rank-8+int8
        low-rank-R, -P%         the leading eigenvectors, and the diagonal of the rest;
        low-rank-trace-P%       R of them, P % of them, or those with P % of the trace
        svd-R, -P%, -trace-P%   the same without the rest (directions go free)
        block-K                 K diagonal blocks, as many as heads keep heads whole
        block-K-correlated      the same of coordinates grouped by correlation
        prune-P%                the largest P % of the entries, and the diagonal
        diagonal                the diagonal
        int8, bfloat16, float16, float32   the same structure, stored so;
                                after + with any other: block-8+int8

    Nothing that is written rewards drift: where rounding or pruning has made an
    eigenvalue negative, the diagonal is raised by as much.

    What is good for a penalty may be useless for who inverts a factor: the errors of
    the damped inverse and of the diagonal, and the overlap of the space of small
    eigenvalues (null) are measured, too. `kfac inspect` says what that means.

    \b
    Example:
        kfac compress total -o small
        kfac compress total --recipe block-8+int8 -o blocks
        kfac compress total --max-size 20MB -o fits
        kfac compress total --max-error 1% --task-vector tau-mine -o close --json
    """
    recipe = keeping.parse()
    output = writing.output
    writing.check_free([artifact, *task_vectors])
    check_artifacts([artifact])
    check_vectors(task_vectors)
    from kfac_artifacts.compress import compression_report
    from kfac_artifacts.format import dense_bytes, load_artifact, read_header

    before, large = load_artifact(artifact), read_header(artifact).nbytes
    taus = [_changes(path, before) for path in task_vectors]
    write(
        before,
        output,
        recipe=recipe,
        what="compressing",
        max_shard_bytes=max_shard_bytes,
        replace=writing.force,
        fitness=fitness,
    )
    after = read_header(output)
    sizes = (large, after.nbytes, dense_bytes(before))
    found = None
    if report:
        with console.progress("comparing", len(before.blocks), "modules") as advance:
            found = compression_report(
                before, load_artifact(output, verify=False), taus, advance
            )
    if as_json:
        console.print_json(_as_json(output, sizes, after, found, task_vectors))
    else:
        shown = FITNESS if fitness else ()
        _print(output, sizes, after, found, task_vectors, shown)


def _changes(path: Path, artifact: "Artifact") -> "Mapping[str, Tensor]":
    """Read a task vector of the artifact's model; of another one it would tell lies."""
    from kfac_artifacts.artifact import require_shared_base
    from kfac_artifacts.task_vector import TaskVector

    vector, base = TaskVector.load(path), artifact.provenance.base
    require_shared_base(f"{path} cannot measure an artifact:", base, vector.base)
    return vector.tensors


def _as_json(
    output: Path,
    sizes: tuple[int, int, int],
    after: "Header",
    found: "Report | None",
    task_vectors: tuple[Path, ...],
) -> dict[str, Any]:
    from kfac_cli.inspect import rows

    large, small, dense = sizes
    result: dict[str, Any] = {
        "output": str(output),
        "bytes_before": large,
        "bytes_after": small,
        "bytes_dense_float32": dense,
        "bytes_of_files": _written(output),
        "factors": {
            f: about for row in rows(after) for f, about in row["factors"].items()
        },
        "losses": {n: asdict(loss) for n, loss in after.provenance.losses.items()},
    }
    if found is not None:
        result |= asdict(found)
        result["task_vectors"] = [str(path) for path in task_vectors]
    return result


def _print(
    output: Path,
    sizes: tuple[int, int, int],
    after: "Header",
    found: "Report | None",
    task_vectors: tuple[Path, ...],
    shown: tuple[str, ...],
) -> None:
    from kfac_cli.inspect import rows

    structures = {row["name"]: " ".join(_kinds(row)) for row in rows(after)}
    if found is not None:
        table = [
            [
                m.name,
                structures[m.name],
                m.before,
                m.after,
                f"{m.error:.4f}",
                f"{m.trace:.4f}",
                f"{m.min_eigenvalue:.0e}",
                f"{m.random:.4f}",
                *(_ratio(value) for value in [*m.fitness.values()][: len(shown)]),
                *(_ratio(value) for value in m.directions),
            ]
            for m in found.modules
        ]
        names = [path.name for path in task_vectors]
        header = [
            "module",
            "kept",
            "before",
            "after",
            "error",
            "trace",
            "λmin",
            "random",
            *shown,
        ]
        print_table(header + names, table)
        click.echo(f"\nall blocks together: relative Frobenius error {found.error:.4f}")
        for title, spread in zip(shown, found.fitness.values(), strict=False):
            click.echo(_spread(title, spread))
        for name, value in zip(names, found.directions, strict=True):
            click.echo(f"penalty along {name}: {_ratio(value)} of what it was")
    large, small, dense = sizes
    counted = Counter(kind for row in rows(after) for kind in _kinds(row))
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted.most_common())
    click.echo(
        f"{output}: {size(large)} to {size(small)}, "
        f"{100 * small / dense:.2f} % of dense float32 ({kinds}); "
        f"{size(_written(output))} with all that describes it"
    )


def _written(output: Path) -> int:
    """Bytes of all files, which a largest size is of."""
    return sum(file.stat().st_size for file in output.iterdir())


def _kinds(row: dict[str, Any]) -> list[str]:
    """What became of the factors of a module, in short."""
    from kfac_cli.inspect import kind

    return [f"{kind(about)}-{about['storage']}" for about in row["factors"].values()]


def _spread(title: str, spread: "Spread") -> str:
    unknown = f"{spread.unknown} factors without" if spread.unknown else ""
    if spread.worst is None:
        return f"{title}: {unknown}"
    found = f"worst {spread.worst:.3g} ({spread.factor}), median {spread.median:.3g}"
    return f"{title}: {found}{', ' if unknown else ''}{unknown}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
