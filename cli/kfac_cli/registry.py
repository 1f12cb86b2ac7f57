"""``kfac registry``: many artifacts in one place, and the running total."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console, registry_page
from kfac_cli.given import check_artifacts
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import DIRECTORY, NAMED
from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.registry import Changed, Index, State

collection_option = click.option(
    "--collection",
    help="Which artifacts that fit one another.  [default: the only one]",
)


@click.group("registry")
def command() -> None:
    """Keep artifacts of many owners, with their total.

    A registry is a Hub repository, hf://org/name[/path], or a plain directory.
    Artifacts that can be merged are a collection of it, and the total of a collection
    is at any time the merge of what is in it. Many may publish at once: none is lost,
    and nothing that was published is ever replaced. `kfac pull` takes what you want.

    \b
    Example:
        kfac registry add tickets hf://my-org/minilm-kfac
        kfac registry list hf://my-org/minilm-kfac
        kfac registry check hf://my-org/minilm-kfac
    """


@command.command("add")
@click.argument("artifact", type=DIRECTORY)
@click.argument("place", type=NAMED)
@click.option("--task", metavar="NAME", help="Its name.  [default: that of its data]")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="Publish it compressed as well, as `kfac compress` does; may be repeated.",
)
@click.option("--license", help="Licence for the card, such as cc-by-4.0.")
@click.option(
    "--new-version",
    is_flag=True,
    help="Let it count in place of the version that is there, which is kept.",
)
@click.option("--private", is_flag=True, help="Make a new repository private.")
@group(HubOptions)
@json_option
def add_command(
    artifact: Path,
    place: str,
    task: str | None,
    recipes: tuple[str, ...],
    license: str | None,
    new_version: bool,
    private: bool,
    hub: HubOptions,
    as_json: bool,
) -> None:
    """Publish ARTIFACT in the registry at PLACE, and update the total, in one step.

    \b
    Example:
        kfac registry add tickets hf://my-org/minilm-kfac --recipe small
        kfac registry add mails ./registry --license cc-by-4.0
    """
    check_artifacts([artifact])
    from kfac_artifacts.registry import Offer, add, open_registry

    with hub.shown(as_json=as_json):
        registry = open_registry(place, hub=hub.connect(), private=private)
        offer = Offer(artifact, task, recipes, license, new_version)
        done = add(registry, offer)
    _say(done, f"{done.task} is in {place}", as_json=as_json)


@command.command("remove")
@click.argument("place", type=NAMED)
@click.argument("task")
@collection_option
@group(HubOptions)
@json_option
def remove_command(
    place: str, task: str, collection: str | None, hub: HubOptions, as_json: bool
) -> None:
    """Take TASK out of the total of the registry at PLACE.

    The total is then the merge of what is left, to the last bit. What was published of
    TASK stays where it is, and can be pulled by its version; to withdraw it, delete its
    folder, and on the Hub its history.

    \b
    Example:
        kfac registry remove hf://my-org/minilm-kfac tickets
    """
    from kfac_artifacts.registry import read_registry, remove

    with hub.shown(as_json=as_json):
        registry, _ = read_registry(place, hub=hub.connect())
        done = remove(registry, task, collection)
    _say(done, f"{done.task} is no longer in the total of {place}", as_json=as_json)


@command.command("list")
@click.argument("place", type=NAMED)
@group(HubOptions)
@json_option
def list_command(place: str, hub: HubOptions, as_json: bool) -> None:
    """List the tasks of the registry at PLACE, and the totals.

    \b
    Example:
        kfac registry list ./registry
    """
    state = _look(place, hub)
    if as_json:
        console.print_json({"head": state.head, "collections": rows_of(state.index)})
        return
    _print(state.index)


@command.command("log")
@click.argument("place", type=NAMED)
@group(HubOptions)
@json_option
def log_command(place: str, hub: HubOptions, as_json: bool) -> None:
    """Tell every change of the registry at PLACE, the first one first.

    \b
    Example:
        kfac registry log ./registry
    """
    changes = _look(place, hub).index.changes
    if as_json:
        console.print_json([change.to_json() for change in changes])
        return
    from kfac_artifacts.hub import tag_of

    rows = [
        [
            c.date,
            c.action,
            c.collection,
            c.task,
            tag_of(c.artifact.digest) if c.artifact else "",
        ]
        for c in changes
    ]
    print_table(["date", "", "collection", "task", "version"], rows)


@command.command("check")
@click.argument("place", type=NAMED)
@group(HubOptions)
@json_option
def check_command(place: str, hub: HubOptions, as_json: bool) -> None:
    """Prove that the registry at PLACE is what it says.

    Every byte of every version is compared with its hash, the index with the log, and
    every total with the merge of what is in it, which is made anew.

    \b
    Example:
        kfac registry check ./registry
    """
    from kfac_artifacts.registry import check, read_registry

    with hub.shown(as_json=as_json):
        registry, state = read_registry(place, hub=hub.connect())
        artifacts = state.index.artifacts
        with console.progress("checking", artifacts, "artifacts") as advance:
            wrong = list(check(registry, state, advance))
    if as_json:
        console.print_json({"artifacts": artifacts, "wrong": wrong})
    elif not wrong:
        totals = sum(c.total is not None for c in state.index.collections.values())
        click.echo(
            f"{place}: {artifacts} artifacts are whole, and {totals} "
            f"{'total is' if totals == 1 else 'totals are'} the merge of what is in it"
        )
    if wrong:
        raise console.failure("\n".join(wrong), code=3)


command.add_command(registry_page.command)


def rows_of(index: "Index") -> dict[str, Any]:
    """Describe a registry for a program."""
    return {
        name: {
            **each.kind.to_json(),
            "total": None if each.total is None else asdict(each.total.entry),
            "tasks": {
                task: {
                    "date": version.date,
                    **asdict(version.artifact),
                    "recipes": list(version.variants),
                    "versions": [v.artifact.digest for v in each.tasks[task].versions],
                }
                for task, version in each.current.items()
            },
        }
        for name, each in index.collections.items()
    }


def _look(place: str, hub: HubOptions) -> "State":
    """Look at a registry that must be there."""
    from kfac_artifacts.registry import read_registry

    return read_registry(place, hub=hub.connect())[1]


def _print(index: "Index") -> None:
    from kfac_artifacts.hub import tag_of

    for name, each in index.collections.items():
        kind = each.kind
        click.echo(f"{name}: {kind.base}, {kind.estimator}")
        rows = [
            [
                task,
                v.artifact.examples,
                v.artifact.size,
                size(v.artifact.bytes),
                v.date[:10],
                v.artifact.license or "-",
                ", ".join(v.variants) or "-",
                tag_of(v.artifact.digest),
            ]
            for task, v in each.current.items()
        ]
        header = ["task", "examples", "of", "size", "date", "licence", "compressed"]
        print_table([*header, "version"], rows)
        if each.total is not None:
            told = each.total.entry
            click.echo(f"total: {told.tasks} tasks, {size(told.bytes)}\n")


def _say(done: "Changed", what: str, *, as_json: bool) -> None:
    """Say what was done."""
    from kfac_artifacts.hub import tag_of

    if as_json:
        console.print_json(asdict(done))
        return
    total = "no total" if done.total is None else f"the total is {tag_of(done.total)}"
    already = "" if done.changed else " already"
    click.echo(f"{what}{already}; {total} of {len(done.tasks)} tasks", err=True)
    click.echo(done.collection)
