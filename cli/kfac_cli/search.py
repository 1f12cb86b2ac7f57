"""``kfac search``: find curvature and task vectors of a model."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kfac_cli.console import print_json
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import NAMED
from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.registry import Found


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
    """Find artifacts and task vectors on the Hub, or in PLACES.

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
            f.kind,
            f.place,
            f.task,
            f.base_model,
            f.estimator or "-",
            _known(f.examples),
            _known(f.size),
            size(f.bytes),
            f.date or "-",
            f.license or "-",
        ]
        for f in found
    ]
    header = ["kind", "place", "task", "base model", "estimator", "examples", "of"]
    print_table([*header, "size", "date", "licence"], rows)
    click.echo(_how_to_take(found), err=True)


def _known(number: int | None) -> int | str:
    return "-" if number is None else number


def _how_to_take(found: Sequence["Found"]) -> str:
    """Say how to pull the first of them, a registry rather than anything else."""
    first = next((f for f in found if f.registry), found[0])
    place = shlex.quote(first.place)
    if first.registry:
        return (
            f"to take it: kfac pull {place} total\n"
            "without a task that is your own: --all-but TASK"
        )
    name = "curvature" if first.kind == "curvature" else "tau"
    return f"to take it: kfac pull {place} {name}"
