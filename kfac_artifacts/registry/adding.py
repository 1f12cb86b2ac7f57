"""Adding a task to a registry, and taking one out."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.definiteness import check_definite
from kfac_artifacts.errors import AddressError, RegistryError, listed
from kfac_artifacts.format import SIGNATURE
from kfac_artifacts.hub import Package, checked_package, tag_of
from kfac_artifacts.merge import fit_of
from kfac_artifacts.places import room_for
from kfac_artifacts.registry.changing import change, entry_of
from kfac_artifacts.registry.entries import (
    ADD,
    COMPRESS,
    NAME,
    REMOVE,
    WITHDRAW,
    Change,
    Kind,
)
from kfac_artifacts.registry.index import Index, folder_of
from kfac_artifacts.registry.places import Registry, State

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What is to be added.

    Attributes:
        directory: The artifact.
        task: What to call it; None takes the name of its data.
        recipes: Compressed forms to publish beside it.
        license: Licence identifier, such as ``cc-by-4.0``.
        new_version: Whether it may take the place of another version.
    """

    directory: Path
    task: str | None = None
    recipes: tuple[str, ...] = ()
    license: str | None = None
    new_version: bool = False


@dataclass(frozen=True)
class Changed:
    """What a change did.

    Attributes:
        changed: False if there was nothing to do.
        collection: Where.
        task: Which task.
        digest: Of the artifact that was added, or None.
        total: Digest of the total now, None if there is none.
        tasks: The tasks that are in the total.
        head: The commit, None of a directory.
        history: Where what was withdrawn is still to be had, and what ends that.
    """

    changed: bool
    collection: str
    task: str
    digest: str | None
    total: str | None
    tasks: tuple[str, ...]
    head: str | None
    history: str | None = None


def add(registry: Registry, offer: Offer) -> Changed:
    """Publish a task in a registry, and update the total, in one step.

    Args:
        registry: The registry; it is made if it is not there.
        offer: What is added.

    Returns:
        What was done.

    Raises:
        RegistryError: If the name is taken, or others come first all the time.
        MismatchError: If the total would hold a task twice.
        FormatError: If the artifact is damaged, or clearly indefinite.
    """
    package = checked_package(offer.directory, offer.license)
    check_definite(package.artifact)
    kind = kind_of(package.artifact)
    task, collection = _task_name(offer, package.artifact), _collection_name(kind)
    with room_for("kfac-variants") as room:
        variants = _variants(package, offer, room)
        packages = {p.digest: p for p in (package, *variants.values())}
        entries = {recipe: entry_of(p) for recipe, p in variants.items()}
        own = entry_of(package)

        def make(index: Index) -> Change | None:
            there = index.collections.get(collection)
            known = there.tasks.get(task) if there else None
            current = known.current if known else None
            if current is not None and current.artifact.digest == own.digest:
                if entries.items() <= current.variants.items():
                    return None
            elif current is not None and not offer.new_version:
                raise RegistryError(
                    f"{registry} has a task {task!r} already, "
                    f"{tag_of(current.artifact.digest)} of {current.date[:10]}; choose "
                    "another --task, or --new-version, which keeps that one as well"
                )
            return Change("", "", ADD, collection, task, kind, own, entries)

        changed, state = change(registry, make, packages)
    if not changed and package.signature is not None:
        folder = folder_of(collection, task, own)
        if registry.read(f"{folder}/{SIGNATURE}", state) != package.signature:
            logger.warning(
                "its signature is not added: what is published stays as it is; "
                "withdraw %s and add it again, signed",
                task,
            )
    return _changed(changed, state, collection, task, own.digest)


def remove(registry: Registry, task: str, collection: str | None = None) -> Changed:
    """Take a task out of a registry's total, and keep what was published of it.

    Args:
        registry: The registry.
        task: Which task.
        collection: Where; None if only one collection has it.

    Returns:
        What was done.

    Raises:
        RegistryError: If there is no such task, or others come first all the time.
    """
    chosen = ""

    def make(index: Index) -> Change:
        nonlocal chosen
        chosen = index.collection(collection, has=[task])
        tasks = index.collections[chosen].current
        if task not in tasks:
            raise RegistryError(
                f"{registry} has no task {task!r} in {chosen}; it has "
                f"{listed(list(tasks), 20)}"
            )
        return Change("", "", REMOVE, chosen, task)

    changed, state = change(registry, make, {})
    return _changed(changed, state, chosen, task, None)


def withdraw(registry: Registry, task: str, collection: str | None = None) -> Changed:
    """Take a task back: out of the total, and all files of all of its versions away.

    The log goes on telling that it was there. On the Hub earlier commits hold it still:
    the result says so. What a run that was killed has left is deleted by another one.

    Args:
        registry: The registry.
        task: Which task, also one that was removed before.
        collection: Where; None if only one collection has had it.

    Returns:
        What was done.

    Raises:
        RegistryError: If there never was such a task, or others come first each time.
        PlaceError: If something cannot be deleted.
    """
    chosen = ""

    def make(index: Index) -> Change | None:
        nonlocal chosen
        chosen = index.collection_with(task, collection)
        versions = index.collections[chosen].tasks[task].versions
        if not versions and not registry.holds(f"{chosen}/tasks/{task}"):
            return None
        return Change("", "", WITHDRAW, chosen, task)

    changed, state = change(registry, make, {})
    done = _changed(changed, state, chosen, task, None)
    return replace(done, history=registry.history)


def compress_total(
    registry: Registry, recipes: Sequence[str], collection: str | None = None
) -> Changed:
    """Keep a total compressed as well, from now on, whoever changes it.

    Args:
        registry: The registry.
        recipes: By which recipes, and by no others.
        collection: Whose; None for the only one.

    Returns:
        What was done.

    Raises:
        SettingsError: If there is no such recipe.
        RegistryError: If there is no such collection, or others come first each time.
    """
    names = tuple(dict.fromkeys(Recipe.parse(name).name for name in recipes))
    chosen = ""

    def make(index: Index) -> Change | None:
        nonlocal chosen
        chosen = index.collection(collection)
        if index.collections[chosen].recipes == names:
            return None
        return Change("", "", COMPRESS, chosen, recipes=names)

    changed, state = change(registry, make, {})
    return _changed(changed, state, chosen, "", None)


def kind_of(artifact: Artifact) -> Kind:
    """Say with what an artifact can be merged."""
    about = artifact.provenance
    return Kind(
        about.base.id,
        about.base.revision,
        about.base.sha256,
        about.output_map,
        about.estimator.name,
        fit_of(artifact),
    )


def _changed(
    changed: bool, state: State, name: str, task: str, digest: str | None
) -> Changed:
    collection = state.index.collections[name]
    total = collection.total
    return Changed(
        changed,
        name,
        task,
        digest,
        None if total is None else total.entry.digest,
        tuple(collection.current),
        state.head,
    )


def _variants(package: Package, offer: Offer, room: Path) -> dict[str, Package]:
    found = {}
    for number, name in enumerate(offer.recipes):
        recipe = Recipe.parse(name)
        place = room / str(number)
        save_artifact(package.artifact, place, recipe=recipe)
        found[recipe.name] = Package.of(place, offer.license or package.named_license)
    return found


def _task_name(offer: Offer, artifact: Artifact) -> str:
    """What a task is called: as asked, or as its data."""
    sources = artifact.provenance.sources
    name = offer.task
    if name is None:
        if len(sources) > 1:
            raise RegistryError(
                f"{offer.directory} has {len(sources)} tasks; say with --task what to "
                "call them together"
            )
        name = _slug(sources[0].data.id)
    if NAME.fullmatch(name) is None:
        raise AddressError(
            f"{name!r} cannot be the name of a task: it is of letters, digits and "
            "- _ . between them, 64 at most; choose one with --task"
        )
    return name


def _collection_name(kind: Kind) -> str:
    """What artifacts that fit one another are called: alike whoever adds them."""
    fit = kind.fit.partition(":")[2]
    return f"{_slug(kind.base)[:40].rstrip('-_.') or 'model'}-{fit[:8]}"


def _slug(text: str) -> str:
    """The last part of an id, as a part of a path."""
    last = text.rstrip("/").rpartition("/")[2]
    last = re.sub(r"\.(csv|tsv|jsonl?|parquet)(\.\w+)?$", "", last)
    return re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-").lower()[:64]
