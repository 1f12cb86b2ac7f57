"""``kfac search``: find curvature of a model."""

from dataclasses import asdict

import click

from kfac_cli.console import print_json
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import NAMED
from kfac_cli.tables import print_table
from kfac_cli.units import size


@click.command("search")
@click.argument("places", type=NAMED, nargs=-1)
@click.option(
    "--base-model", metavar="ID", help="Only of this model, by its id or its last part."
)
@group(HubOptions)
@json_option
def command(
    places: tuple[str, ...], base_model: str | None, hub: HubOptions, as_json: bool
) -> None:
    """Find artifacts of a model on the Hub, or in PLACES.

    On the Hub repositories with the tag kfac are looked at, 50 at most, those whose
    cards name the model if there are any. PLACES are directories, with all that is in
    them, or hf://org/name.

    \b
    Example:
        kfac search --base-model sentence-transformers/all-MiniLM-L6-v2
        kfac search ./registry --json
    """
    from kfac_artifacts.registry import search

    with hub.shown(as_json=True):
        found = search(base_model, places, hub=hub.connect())
    if as_json:
        print_json([asdict(each) for each in found])
        return
    if not found:
        click.echo("nothing was found", err=True)
        return
    rows = [
        [
            f.place,
            f.task,
            f.base_model,
            f.estimator,
            f.examples,
            f.size,
            size(f.bytes),
            f.date or "-",
            f.license or "-",
        ]
        for f in found
    ]
    header = ["place", "task", "base model", "estimator", "examples", "of", "size"]
    print_table([*header, "date", "licence"], rows)
    first = next((f for f in found if f.registry), found[0])
    chosen = " --all-but TASK" if first.registry else ""
    click.echo(f"to take it: kfac pull {first.place} others{chosen}", err=True)
