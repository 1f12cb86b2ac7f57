"""``kfac pull``: fetch an artifact and verify it."""

import sys
from pathlib import Path

import click

from kfac_cli.console import print_json, size
from kfac_cli.options import NAMED, hub_options, json_option


@click.command("pull")
@click.argument("source", type=NAMED)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace an artifact at DIRECTORY.")
@hub_options
@json_option
def command(
    source: str,
    directory: Path,
    force: bool,
    endpoint: str | None,
    retries: int,
    as_json: bool,
) -> None:
    """Fetch the artifact at SOURCE, and verify every byte of it.

    SOURCE is hf://org/name[/path][@revision], or a directory with an artifact. A branch
    or tag is resolved to a commit first; the commit is printed, and kept with the
    artifact in pulled.json. DIRECTORY appears whole or not at all.

    \b
    Example:
      kfac pull hf://my-org/minilm-kfac/mnli@main mnli-curvature
      kfac pull registry/mnli mnli-curvature
    """
    from kfac_artifacts.hub import Hub, client_output, pull

    terminal = sys.stderr.isatty()
    with client_output(bars=terminal and not as_json, lines=not terminal):
        hub = Hub(endpoint=endpoint, retries=retries)
        pulled = pull(source, directory, replace=force, hub=hub)
    if pulled.stale:
        click.echo(
            f"warning: the Hub did not answer; {source} is what it was when it was "
            "last asked for",
            err=True,
        )
    click.echo(f"pulled {size(pulled.size)} into {directory}, verified", err=True)
    if as_json:
        print_json({**pulled.__dict__, "directory": str(pulled.directory)})
    else:
        click.echo(pulled.reference)
