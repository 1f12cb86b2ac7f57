"""``kfac join``: the parts of an estimation that was split by modules."""

from pathlib import Path

import click

from kfac_cli import console
from kfac_cli.given import check_artifacts
from kfac_cli.groups import group
from kfac_cli.options import (
    StorageOptions,
    WriteOptions,
    allow_indefinite_option,
    json_option,
)
from kfac_cli.parameters import DIRECTORY
from kfac_cli.units import size
from kfac_cli.writing import write


@click.command("join")
@click.argument("artifacts", type=DIRECTORY, nargs=-1, required=True)
@group(WriteOptions)
@group(StorageOptions)
@allow_indefinite_option
@json_option
def command(
    artifacts: tuple[Path, ...],
    writing: WriteOptions,
    storing: StorageOptions,
    allow_indefinite: bool,
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
    writing.check_free(artifacts)
    check_artifacts(artifacts)
    from kfac_artifacts.format import load_artifact, read_header
    from kfac_artifacts.merge import join_parts
    from kfac_cli.inspect import overview

    joined = join_parts([load_artifact(path) for path in artifacts])
    write(
        joined,
        writing.output,
        recipe=None,
        what="joining",
        storage=storing.storage,
        max_shard_bytes=storing.max_shard_bytes,
        replace=writing.force,
        allow_indefinite=allow_indefinite,
    )
    summary = overview(read_header(writing.output))
    if as_json:
        console.print_json(summary)
        return
    click.echo(
        f"{writing.output}: {summary['modules']} modules of {len(artifacts)} "
        f"artifacts, {summary['parameters']:,} parameters covered, "
        f"{size(summary['bytes'])}"
    )
