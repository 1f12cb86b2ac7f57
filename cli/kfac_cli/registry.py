"""``kfac registry``: many artifacts in one place, and the running total."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli import console, registry_page
from kfac_cli.given import check_artifacts
from kfac_cli.groups import group
from kfac_cli.options import HubOptions, json_option
from kfac_cli.parameters import DIRECTORY, NAMED
from kfac_cli.registry_rows import print_index, rows_of
from kfac_cli.tables import print_table

if TYPE_CHECKING:
    from kfac_artifacts.registry import Changed, State

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
    TASK stays where it is, and can be pulled by its version; `kfac registry withdraw`
    deletes it.

    \b
    Example:
        kfac registry remove hf://my-org/minilm-kfac tickets
    """
    from kfac_artifacts.registry import read_registry, remove

    with hub.shown(as_json=as_json):
        registry, _ = read_registry(place, hub=hub.connect())
        done = remove(registry, task, collection)
    _say(done, f"{done.task} is no longer in the total of {place}", as_json=as_json)


@command.command("withdraw")
@click.argument("place", type=NAMED)
@click.argument("task")
@collection_option
@group(HubOptions)
@json_option
def withdraw_command(
    place: str, task: str, collection: str | None, hub: HubOptions, as_json: bool
) -> None:
    """Take TASK back from the registry at PLACE: delete all that it holds of it.

    All versions and compressed forms go, out of the total as well. In a directory the
    files are gone then; on the Hub they are no longer to be seen, but the history holds
    them, and it is said what ends that. The log goes on telling that TASK was there.

    \b
    Example:
        kfac registry withdraw ./registry tickets
    """
    from kfac_artifacts.registry import read_registry, withdraw

    with hub.shown(as_json=as_json):
        registry, _ = read_registry(place, hub=hub.connect())
        done = withdraw(registry, task, collection)
    _say(done, f"{done.task} is withdrawn from {place}", as_json=as_json)
    if done.history is not None:
        console.warn([done.history])


@command.command("compress")
@click.argument("place", type=NAMED)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="As of `kfac compress`; may be repeated.  [default: none any more]",
)
@collection_option
@group(HubOptions)
@json_option
def compress_command(
    place: str,
    recipes: tuple[str, ...],
    collection: str | None,
    hub: HubOptions,
    as_json: bool,
) -> None:
    """Keep the total of the registry at PLACE compressed as well, from now on.

    Whoever adds or removes a task brings the compressed total up to date, too. `kfac
    pull PLACE --recipe NAME` takes it: one small file.

    \b
    Example:
        kfac registry compress hf://my-org/minilm-kfac --recipe small
    """
    from kfac_artifacts.registry import compress_total, read_registry

    with hub.shown(as_json=as_json):
        registry, _ = read_registry(place, hub=hub.connect())
        done = compress_total(registry, recipes, collection)
    how = ", ".join(recipes) or "nothing"
    _say(done, f"the total of {place} is compressed by {how}", as_json=as_json)


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
    print_index(state.index)


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
            tag_of(c.artifact.digest) if c.artifact else ", ".join(c.recipes),
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


def _look(place: str, hub: HubOptions) -> "State":
    """Look at a registry that must be there."""
    from kfac_artifacts.registry import read_registry

    return read_registry(place, hub=hub.connect())[1]


def _say(done: "Changed", what: str, *, as_json: bool) -> None:
    """Say what was done."""
    from kfac_artifacts.hub import tag_of

    if as_json:
        console.print_json(asdict(done))
        return
    total = "no total" if done.total is None else f"the total is {tag_of(done.total)}"
    already = "" if done.changed else " already"
    tasks = "1 task" if len(done.tasks) == 1 else f"{len(done.tasks)} tasks"
    click.echo(f"{what}{already}; {total} of {tasks}", err=True)
    click.echo(done.collection)
