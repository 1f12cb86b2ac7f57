"""``kfac push``: publish an artifact or a task vector."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli.console import print_json, warn
from kfac_cli.given import check_artifacts, check_vectors, is_vector
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import NAMED, PLACE
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.hub import Pushed


@click.command("push")
@click.argument("directory", type=PLACE)
@click.argument("destination", type=NAMED)
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--license", help="Licence for the model card, such as cc-by-4.0.")
@click.option("--tag", help="Tag of the commit.  [default: named by the digest]")
@click.option(
    "--force",
    is_flag=True,
    help="Replace an artifact of other tasks in a plain directory, too.",
)
@group(HubOptions)
@json_option
def command(
    directory: Path,
    destination: str,
    private: bool,
    license: str | None,
    tag: str | None,
    force: bool,
    hub: HubOptions,
    as_json: bool,
) -> None:
    """Publish DIRECTORY, an artifact or a task vector.

    DESTINATION is hf://org/name[/path][@branch], or a plain directory: the place in an
    embedded registry where the artifact itself goes. The artifact is checked
    first, goes up in one commit, and the commit is tagged. A model card is written, and
    never again once somebody edited it. The pinned address is printed; `kfac pull`
    takes it. The token is that of `hf auth login` or HF_TOKEN.

    \b
    Example:
      kfac push mnli-curvature hf://my-org/minilm-kfac/mnli --license cc-by-4.0
      kfac push mnli-curvature ./registry/mnli
      kfac push tau-mine hf://my-org/minilm-tau/mine
    """
    from kfac_artifacts.hub import parse

    parse(destination)
    vector = is_vector(directory)
    (check_vectors if vector else check_artifacts)([directory])
    from kfac_artifacts.hub import push

    if not vector:
        _tell(directory)
    with hub.shown(as_json=as_json):
        pushed = push(
            directory,
            destination,
            private=private,
            license=license,
            tag=tag,
            replace=force,
            hub=hub.connect(),
        )
    _say(pushed, destination)
    if as_json:
        place = None if pushed.directory is None else str(pushed.directory)
        print_json({**pushed.__dict__, "directory": place})
    else:
        click.echo(pushed.reference)


def _say(pushed: "Pushed", destination: str) -> None:
    """Say on stderr what was done, and what was not."""
    if not pushed.changed:
        click.echo(f"{destination} is already up to date", err=True)
    elif pushed.directory is not None:
        where = f"the local directory {pushed.directory}, as {pushed.tag}"
        click.echo(f"wrote {size(pushed.size)} into {where}", err=True)
    else:
        tagged = f"tagged {pushed.tag}" if pushed.tag else "not tagged"
        click.echo(f"pushed {size(pushed.size)}, {tagged}", err=True)
    if pushed.card_kept:
        click.echo("its edited README.md was kept as it is", err=True)
    if pushed.replaced is not None:
        click.echo(f"replaced {pushed.replaced}", err=True)
    if pushed.untagged:
        warn([f"the tag could not be set, push again to set it: {pushed.untagged}"])


def _tell(directory: Path) -> None:
    """Say what will be published; of what should not be, the library warns."""
    from kfac_artifacts.artifact import disclosure
    from kfac_artifacts.format import load_artifact

    click.echo(str(disclosure(load_artifact(directory, verify=False))), err=True)
