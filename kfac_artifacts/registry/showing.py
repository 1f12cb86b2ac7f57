"""What a page about a registry needs of each artifact: its lineage and its picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.artifact import Source
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import MANIFEST, manifest_from_json, parse_json
from kfac_artifacts.hub import PICTURE, digest_in, is_plain_picture
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.registry.entries import Entry
from kfac_artifacts.registry.index import Collection, folder_of
from kfac_artifacts.registry.places import Registry, State


@dataclass(frozen=True)
class Shown:
    """An artifact as its manifest and its picture show it.

    Attributes:
        entry: What the index says of it.
        sources: The tasks in it; none if its manifest cannot be read.
        blocks: How many blocks it has.
        picture: Its picture, if it has one that is safe to show.
        wrong: Why its manifest was passed over, or None.
    """

    entry: Entry
    sources: tuple[Source, ...] = ()
    blocks: int = 0
    picture: bytes | None = None
    wrong: str | None = None


def look_at(
    registry: Registry, state: State, progress: Advance = unseen
) -> dict[str, Shown]:
    """Read manifests and pictures of what counts in a registry; no factor is fetched.

    Args:
        registry: The registry.
        state: As it was looked at.
        progress: Called with 1 after every artifact.

    Returns:
        What was found, by the digest of the artifact.
    """
    found = {}
    for folder, entry in current(state.index.collections).items():
        found[entry.digest] = _look(registry, state, folder, entry)
        progress(1)
    return found


def current(collections: Mapping[str, Collection]) -> dict[str, Entry]:
    """The totals and the versions that count, by their folders."""
    found = {}
    for name, each in collections.items():
        if each.total is not None:
            found[folder_of(name, None, each.total.entry)] = each.total.entry
        for task, version in each.current.items():
            found[folder_of(name, task, version.artifact)] = version.artifact
    return found


def _look(registry: Registry, state: State, folder: str, entry: Entry) -> Shown:
    try:
        text = registry.read(f"{folder}/{MANIFEST}", state)
        if text is None or digest_in(text, Path(folder)) != entry.digest:
            return Shown(entry, wrong="it is not there as the index says")
        manifest = manifest_from_json(parse_json(text, MANIFEST))
        picture = registry.read(f"{folder}/{PICTURE}", state)
    except FormatError as error:
        return Shown(entry, wrong=str(error))
    safe = picture is not None and is_plain_picture(picture)
    sources, blocks = manifest.provenance.sources, len(manifest.blocks)
    return Shown(entry, sources, blocks, picture if safe else None)
