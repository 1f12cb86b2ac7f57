"""``kfac join``: the parts of an estimation that was split by modules."""

from pathlib import Path

import click

from kfac_cli import console
from kfac_cli.given import check_artifacts
from kfac_cli.options import DIRECTORY, json_option, storage_options, write_options
from kfac_cli.writing import write


@click.command("join")
@click.argument("artifacts", type=DIRECTORY, nargs=-1, required=True)
@write_options
@storage_options
@json_option
def command(
    artifacts: tuple[Path, ...],
    output: Path,
    force: bool,
    storage: str | None,
    max_shard_size: float,
    as_json: bool,
) -> None:
    """Join ARTIFACTS that cover different modules of one model.

    A long estimation can be split with `kfac compute --modules`, in time or over
    machines; this puts the parts together. Artifacts of different data are merged.

    \b
    Example:
        kfac compute ./model mails.csv --modules '*.layer.[0-5].*' -o low
        kfac compute ./model mails.csv --exclude '*.layer.[0-5].*' -o high
        kfac join low high -o mails
    """
    from kfac_artifacts.places import check_free

    check_free(output, replace=force, inputs=artifacts)
    check_artifacts(artifacts)
    from kfac_artifacts.format import load_artifact, read_header
    from kfac_artifacts.merge import join
    from kfac_cli.inspect import overview

    joined = join([load_artifact(path) for path in artifacts])
    write(
        joined,
        output,
        recipe=None,
        what="joining",
        storage=storage,
        max_shard_bytes=int(max_shard_size * 10**9),
        replace=force,
    )
    summary = overview(read_header(output))
    if as_json:
        console.print_json(summary)
        return
    click.echo(
        f"{output}: {summary['modules']} modules of {len(artifacts)} artifacts, "
        f"{summary['parameters']:,} parameters covered, "
        f"{console.size(summary['bytes'])}"
    )
