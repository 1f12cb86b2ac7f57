"""``kfac pull``: fetch an artifact, or make one of a registry, and verify it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli.console import print_json, warn
from kfac_cli.groups import group, option
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import FILE, NAMED, PLACE
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.hub import Pulled
    from kfac_artifacts.registry import Selection


@dataclass(frozen=True)
class SelectionOptions:
    """What is taken of a registry."""

    tasks: str | None = option(
        "--tasks", metavar="A,B,...", help="Of a registry: these tasks, merged."
    )
    all_but: str | None = option(
        "--all-but", metavar="A,B,...", help="All tasks but these, merged."
    )
    recipe: str | None = option(
        "--recipe",
        metavar="NAME",
        help="Compressed, as it is published or else on arrival: block-8.",
    )
    collection: str | None = option(
        "--collection", help="Which collection.  [default: the only one that will do]"
    )

    def read(self) -> "Selection":
        """Read them."""
        from kfac_artifacts.registry import Selection

        return Selection(
            _names(self.tasks), _names(self.all_but), self.recipe, self.collection
        )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@click.command("pull")
@click.argument("source", type=NAMED, required=False)
@click.argument("directory", type=PLACE, required=False)
@group(SelectionOptions)
@click.option("--force", is_flag=True, help="Replace an artifact at DIRECTORY.")
@click.option(
    "--lock", type=FILE, help="Note revision and digests here.  [default: nowhere]"
)
@click.option(
    "--locked",
    is_flag=True,
    help="Pull again all that --lock names, or kfac.lock, just as it was.",
)
@group(HubOptions)
@json_option
def command(
    source: str | None,
    directory: Path | None,
    selection: SelectionOptions,
    force: bool,
    lock: Path | None,
    locked: bool,
    hub: HubOptions,
    as_json: bool,
) -> None:
    """Fetch an artifact or a task vector, every byte verified.

    SOURCE is hf://org/name[/path][@revision], org/name, or a directory: one of them, a
    registry, of which the total is taken, or a model with one of them in its folder
    kfac. A branch or tag is resolved to a commit first; the commit is printed, and kept
    with the artifact in pulled.json. DIRECTORY appears whole or not at all, by default
    under the last name of SOURCE. Without a connection the cache is used.

    \b
    Example:
        kfac pull hf://my-org/minilm-kfac/mnli@main mnli-curvature
        kfac pull registry/mnli mnli-curvature
        kfac pull my-org/minilm-kfac others --all-but mytask --lock kfac.lock
        kfac pull my-org/minilm-kfac two --tasks tickets,mails --recipe small
        kfac pull --locked
    """
    from kfac_artifacts.registry import (
        LOCK,
        check_lockable,
        pull_locked,
        take,
        write_lock,
    )

    chosen = selection.read()
    if locked:
        if source is not None:
            raise click.UsageError("--locked pulls what the lock file names: no SOURCE")
        with hub.shown(as_json=as_json):
            every = pull_locked(lock or Path(LOCK), replace=force, hub=hub.connect())
        _report(every, as_json=as_json)
        return
    if source is None:
        raise click.UsageError("say what to pull: SOURCE, or --locked")
    place = directory or _named_by(source)
    if lock is not None:
        check_lockable(lock, place)
    with hub.shown(as_json=as_json):
        taken = take(source, place, chosen, replace=force, hub=hub.connect())
    if lock is not None:
        write_lock(lock, taken)
    _report([taken.pulled], as_json=as_json)


def _named_by(source: str) -> Path:
    """The last name of a source, unless that is the source itself."""
    place = Path(source.partition("@")[0].rstrip("/").rpartition("/")[2])
    if place.resolve() == Path(source).resolve():
        raise click.UsageError(f"say where it goes: kfac pull {source} DIRECTORY")
    return place


def _report(every: Sequence["Pulled"], *, as_json: bool) -> None:
    for pulled in every:
        if pulled.stale:
            warn(["the Hub did not answer; this is what it was when last asked for"])
        where = pulled.directory
        if pulled.size:
            click.echo(f"pulled {size(pulled.size)} into {where}, verified", err=True)
        else:
            click.echo(f"{where} is there already, verified", err=True)
    told = [{**p.__dict__, "directory": str(p.directory)} for p in every]
    if as_json:
        print_json(told[0] if len(told) == 1 else told)
        return
    for pulled in every:
        click.echo(pulled.reference)
