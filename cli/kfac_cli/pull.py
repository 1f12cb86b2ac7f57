"""``kfac pull``: fetch an artifact and verify it."""

from pathlib import Path

import click

from kfac_cli.console import print_json, warn
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import NAMED, PLACE
from kfac_cli.units import size


@click.command("pull")
@click.argument("source", type=NAMED)
@click.argument("directory", type=PLACE)
@click.option("--force", is_flag=True, help="Replace an artifact at DIRECTORY.")
@group(HubOptions)
@json_option
def command(
    source: str, directory: Path, force: bool, hub: HubOptions, as_json: bool
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
    from kfac_artifacts.hub import pull

    with hub.shown(as_json=as_json):
        pulled = pull(source, directory, replace=force, hub=hub.connect())
    if pulled.stale:
        warn([f"the Hub did not answer; {source} is what it was when last asked for"])
    click.echo(f"pulled {size(pulled.size)} into {directory}, verified", err=True)
    if as_json:
        print_json({**pulled.__dict__, "directory": str(pulled.directory)})
    else:
        click.echo(pulled.reference)
