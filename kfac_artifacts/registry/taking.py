"""Pulling by meaning: of a registry, of a model's repository, or one artifact."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.errors import (
    FormatError,
    MismatchError,
    RegistryError,
    listed,
)
from kfac_artifacts.format import LOOKS
from kfac_artifacts.hub import (
    COMMIT,
    KINDS,
    Client,
    Hub,
    HubAddress,
    Origin,
    PlainAddress,
    Pulled,
    is_unreachable,
    pull,
    receive,
    resolve,
)
from kfac_artifacts.places import check_free, workspace
from kfac_artifacts.registry.hub_registry import HubRegistry
from kfac_artifacts.registry.index import INDEX
from kfac_artifacts.registry.places import Registry, State
from kfac_artifacts.registry.plain_registry import PlainRegistry
from kfac_artifacts.registry.selection import Selection, Way, way_of

logger = logging.getLogger(__name__)
ROUNDING = (
    "; it is compressed here, and libraries of other versions round otherwise: pull it "
    "anew, and lock that"
)
MANIFESTS = tuple(kind.manifest for kind in KINDS)
BESIDE = "kfac"
"""The folder of a model's repository with curvature of it."""


@dataclass(frozen=True)
class Taken:
    """What was pulled.

    Attributes:
        pulled: Where it is, and where it came from.
        way: Of a registry how it is made once more, as a lock tells it; else None.
    """

    pulled: Pulled
    way: Way | None = None


def take(
    source: str | Path,
    directory: str | Path,
    selection: Selection | None = None,
    *,
    replace: bool = False,
    hub: Hub | None = None,
) -> Taken:
    """Fetch an artifact or a task vector, or make one artifact of a registry.

    Args:
        source: ``hf://org/name[/path][@revision]``, ``org/name``, or a directory: an
            artifact, a registry, or a model with one of them in its folder ``kfac``.
        directory: Where it goes; it appears whole or not at all.
        selection: What of a registry; by default the total.
        replace: Whether what this package wrote there may be replaced.
        hub: The Hub; by default the one of the environment.

    Returns:
        What was done.

    Raises:
        RegistryError: If it is not there, or something is chosen of one artifact.
        FormatError: If it is damaged, or another one than the index says.
        OSError: If the output is taken away meanwhile.
    """
    hub, chosen = hub or Hub(), selection or Selection()
    check_free(directory, replace=replace)
    address, registry = _find(str(source), hub, sure=chosen != Selection())
    if registry is None:
        if chosen != Selection():
            raise RegistryError(
                f"{address} is no registry (no {INDEX}), so nothing can be chosen of it"
            )
        return Taken(pull(str(address), directory, replace=replace, hub=hub))
    for look in range(LOOKS):
        state = registry.state()
        try:
            return _take(registry, state, str(source), Path(directory), chosen, replace)
        except (FormatError, OSError):
            again = registry.state() if isinstance(registry, PlainRegistry) else state
            if again.index.totals == state.index.totals or look + 1 == LOOKS:
                raise
    raise RegistryError(f"{registry} is being changed again and again; try again later")


def make(
    registry: Registry,
    state: State,
    way: Way,
    directory: Path,
    origin: tuple[str, str, str | None],
    *,
    replace: bool,
) -> Pulled:
    """Fetch pieces of a registry, and let what they make together appear.

    Args:
        registry: The registry.
        state: As it was looked at.
        way: What is added and taken out, and by what the merge is compressed.
        directory: Where the result goes.
        origin: The address that was asked for, the pinned one, and the digest that the
            result must have, if that is known.
        replace: Whether what this package wrote there may be replaced.

    Returns:
        What was done.

    Raises:
        FormatError: If something is damaged, or the result is not what it must be.
        MismatchError: If what is to be taken out cannot be, exactly.
    """
    from kfac_artifacts.compress import save_artifact
    from kfac_artifacts.format import load_artifact
    from kfac_artifacts.merge import merge

    asked, pinned, expected = origin
    added, out = ([p for p in way.pieces if p.sign == sign] for sign in (1, -1))
    registry.announce((piece.path, piece.entry) for piece in way.pieces)
    opened = [
        [registry.fetch(piece.path, piece.entry, state) for piece in each]
        for each in (added, out)
    ]
    if out and any(a.provenance.losses for each in opened for a in each):
        raise MismatchError("compressed artifacts are not taken apart exactly")
    # one alone is merged, too, where the result was a total, or is compressed here
    is_it = expected is None or added[0].entry.digest == expected
    with workspace(directory) as room:
        if len(way.pieces) == 1 and is_it and way.recipe is None:
            place = registry.locate(added[0].path, added[0].entry, state)
        else:
            merged = merge(opened[0], exclude=opened[1], allow_indefinite=True)
            place = room / "merged"
            save_artifact(merged, place, allow_indefinite=True)
        if way.recipe is not None:
            whole, place = load_artifact(place, verify=False), room / "compressed"
            save_artifact(whole, place, recipe=way.recipe)
        digest = load_artifact(place, verify=False).digest or ""
        if expected is not None and digest != expected:
            raise FormatError(
                f"what {pinned} gives is {digest}, not {expected} as it should be"
                + ("" if way.recipe is None else ROUNDING)
            )
        size = receive(place, directory, Origin(asked, pinned, digest), replace=replace)
    return Pulled(directory, pinned, digest, size, state.stale)


def _take(
    registry: Registry,
    state: State,
    source: str,
    directory: Path,
    chosen: Selection,
    replace: bool,
) -> Taken:
    parts = way_of(state.index, chosen, only_parts=True)
    local = state.head is None  # nothing is downloaded, and old totals are not kept
    way = parts if local and chosen.all_but else way_of(state.index, chosen)
    if way.lacking:
        logger.warning(
            "not published as %s: %s; it is made of what was computed, and compressed "
            "here",
            chosen.recipe,
            listed(way.lacking, 8),
        )
    pinned = str(registry) if state.head is None else f"{registry}@{state.head}"
    origin = (source, pinned, None)
    try:
        done = make(registry, state, way, directory, origin, replace=replace)
    except MismatchError:
        if way == parts:
            raise
        way = parts  # the total cannot be taken apart
        done = make(registry, state, way, directory, origin, replace=replace)
    return Taken(done, parts if local else way)


def _find(
    source: str, hub: Hub, *, sure: bool
) -> tuple[HubAddress | PlainAddress, Registry | None]:
    """Where an artifact or a registry is: there, or beside a model's weights."""
    address = resolve(source)
    if isinstance(address, PlainAddress):
        return _find_here(address)
    folder = f"{address.path}/{BESIDE}" if address.path else BESIDE
    inner = HubAddress(address.repo, folder, address.revision)
    files = {a.file(n): (a, n) for a in (address, inner) for n in (*MANIFESTS, INDEX)}
    with hub.explained(address):
        there = _among(files, Client(hub, address), sure=sure)
    for path, (found, name) in files.items():
        if path in there:
            return found, HubRegistry(found, hub) if name == INDEX else None
    return address, None


def _find_here(
    address: PlainAddress,
) -> tuple[PlainAddress, Registry | None]:
    inner = PlainAddress(address.directory / BESIDE, address.revision)
    for found in (address, inner):
        if any((found.directory / name).is_file() for name in MANIFESTS):
            return found, None
        if (found.directory / INDEX).is_file():
            return found, PlainRegistry(found.directory)
    return address, None  # whoever pulls from it says what is wrong


def _among(paths: Iterable[str], client: Client, *, sure: bool) -> set[str]:
    """Those of some files that a repository has, as far as can be told."""
    cached = {path for path in paths if client.cached(path) is not None}
    revision = client.address.revision
    if cached and revision and COMMIT.fullmatch(revision):
        return cached
    try:
        commit = client.head_noted(revision)
        return set(client.described(list(paths), commit))
    except Exception as error:
        if cached and is_unreachable(error):
            return cached
        if sure:
            raise
        return set()  # whoever pulls from it says what is wrong
