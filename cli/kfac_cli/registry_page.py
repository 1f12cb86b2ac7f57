"""``kfac registry export-static``: a registry as one page."""

from pathlib import Path

import click

from kfac_cli import console
from kfac_cli.groups import group
from kfac_cli.options import HubOptions
from kfac_cli.parameters import FILE, NAMED


@click.command("export-static")
@click.argument("place", type=NAMED)
@click.argument("page", type=FILE)
@group(HubOptions)
def command(place: str, page: Path, hub: HubOptions) -> None:
    """Write the registry at PLACE as one web page, PAGE, to browse.

    It has a table of all tasks to sort and filter, what each is made of, spectra and
    sizes as its card shows them, versions, the log, and how to pull everything. It
    needs nothing else: no network, no other file. No factor is downloaded for it.

    \b
    Example:
        kfac registry export-static ./registry registry.html
        kfac registry export-static hf://my-org/minilm-kfac index.html
    """
    from kfac_artifacts.registry import (
        check_page_free,
        current,
        export_static,
        read_registry,
    )

    check_page_free(page)
    with hub.shown(as_json=True):
        registry, state = read_registry(place, hub=hub.connect())
        many = len(current(state.index.collections))
        with console.progress("looking at", many, "artifacts") as advance:
            export_static(registry, state, page, advance)
    click.echo(page)
