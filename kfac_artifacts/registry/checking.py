"""Proving a registry: each artifact is whole, and the totals are what is in it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import tag_of
from kfac_artifacts.merge import has_total, merge
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.registry.index import Collection, folder_of
from kfac_artifacts.registry.places import Registry, State


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
    path = folder_of(name, None, total.entry)
    try:
        registry.fetch(path, total.entry, state, anew=True)
    except (KfacError, OSError) as error:
        yield f"{path}: {error}"
        return
    with TemporaryDirectory(prefix="kfac-check-") as room:
        merged = merge(parts, allow_indefinite=True)
        save_artifact(merged, Path(room) / "total", allow_indefinite=True)
        again = load_artifact(Path(room) / "total", verify=False).digest or ""
    if again != total.entry.digest:
        yield (
            f"{name}: its total {tag_of(total.entry.digest)} is not the merge of what "
            f"is in it, {tag_of(again)}"
        )
