"""Proving a registry: each artifact is whole, and the totals are what is in it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, compression_report, save_artifact
from kfac_artifacts.errors import KfacError, MismatchError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import tag_of
from kfac_artifacts.merge import has_total, merge
from kfac_artifacts.places import room_for
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.registry.index import Collection, Total, folder_of
from kfac_artifacts.registry.places import Registry, State

ROUNDING = 1e-3
"""Relative error up to which a compressed total is the same, computed elsewhere."""


def check(
    registry: Registry, state: State, progress: Advance = unseen
) -> Iterator[str]:
    """Look at all of a registry, and merge every total anew.

    Args:
        registry: The registry.
        state: As it was looked at.
        progress: Called with 1 after every artifact.

    Yields:
        What is wrong, a sentence each; nothing if all is well.
    """
    if state.behind:
        yield (
            "its index lacks changes that are in its log: add or remove anything, and "
            "it is brought up to date"
        )
    for name, collection in state.index.collections.items():
        found: dict[str, Artifact] = {}
        for task, each in collection.tasks.items():
            if not each.versions and registry.holds(f"{name}/tasks/{task}"):
                yield f"{name}: {task} was withdrawn, but is there; withdraw it again"
            for version in each.versions:
                for entry in (version.artifact, *version.variants.values()):
                    path = folder_of(name, task, entry)
                    try:
                        found[entry.digest] = registry.fetch(
                            path, entry, state, anew=True
                        )
                    except (KfacError, OSError) as error:
                        yield f"{path}: {error}"
                    progress(1)
        yield from _check_total(registry, state, name, collection, found)
        progress(1)


def _check_total(
    registry: Registry,
    state: State,
    name: str,
    collection: Collection,
    found: dict[str, Artifact],
) -> Iterator[str]:
    digests = [version.artifact.digest for version in collection.current.values()]
    if not found.keys() >= set(digests):
        yield f"{name}: its total cannot be proved without what is missing"
        return
    parts = [found[digest] for digest in digests]
    total = collection.total
    mergeable = bool(parts) and all(map(has_total, parts))
    if total is None or not mergeable:
        if (total is None) == mergeable:
            yield f"{name}: there should be {'a' if mergeable else 'no'} total"
        return
    if total.parts != collection.parts:
        yield f"{name}: its total is of other versions than those that are in it"
    if total.variants.keys() != {*collection.recipes}:
        yield f"{name}: its total is not compressed by {', '.join(collection.recipes)}"
    with room_for("kfac-check") as room:
        yield from _check_merge(registry, state, name, total, (parts, room))


def _check_merge(
    registry: Registry,
    state: State,
    name: str,
    total: Total,
    made: tuple[Sequence[Artifact], Path],
) -> Iterator[str]:
    """Merge the parts once more, and compress that, in a room for it."""
    parts, room = made
    save_artifact(
        merge(parts, allow_indefinite=True), room / "total", allow_indefinite=True
    )
    again = load_artifact(room / "total", verify=False)
    for recipe, entry in ((None, total.entry), *total.variants.items()):
        path = folder_of(name, None, entry)
        try:
            found = registry.fetch(path, entry, state, anew=True)
        except (KfacError, OSError) as error:
            yield f"{path}: {error}"
            continue
        if recipe is None and again.digest != found.digest:
            yield (
                f"{name}: its total {tag_of(entry.digest)} is not the merge of what is "
                f"in it, {tag_of(again.digest or '')}"
            )
        elif recipe and not _is_compressed(again, recipe, found, room / recipe):
            yield f"{path} is not the total compressed by {recipe}"


def _is_compressed(total: Artifact, recipe: str, found: Artifact, room: Path) -> bool:
    """Compress once more, and compare; libraries of other machines round otherwise."""
    save_artifact(total, room, recipe=Recipe.parse(recipe))
    again = load_artifact(room, verify=False)
    if again.digest == found.digest:
        return True
    if again.provenance.sources != found.provenance.sources:
        return False
    try:
        return compression_report(again, found).error <= ROUNDING
    except MismatchError:
        return False
