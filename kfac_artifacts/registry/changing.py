"""Changing a registry: again until the change stands, whoever else changes it."""

import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import Recipe, save_artifact
from kfac_artifacts.errors import (
    AccessError,
    ConnectionFailed,
    KfacError,
    RegistryError,
)
from kfac_artifacts.format import dump_json
from kfac_artifacts.hub import CARD, Package, is_untouched
from kfac_artifacts.merge import has_total, merge
from kfac_artifacts.places import room_for
from kfac_artifacts.registry.card import registry_card
from kfac_artifacts.registry.entries import WITHDRAW, Change, Entry
from kfac_artifacts.registry.index import (
    INDEX,
    Collection,
    Index,
    Total,
    folder_of,
)
from kfac_artifacts.registry.places import (
    LOG,
    ConflictError,
    Plan,
    Registry,
    State,
)

logger = logging.getLogger(__name__)
STAMP = "%Y%m%dT%H%M%S.%fZ"
CONFLICTS = 1000
"""How many changes of others may come first."""
LONGEST_WAIT = 30.0
Make = Callable[[Index], Change | None]


def change(
    registry: Registry,
    make: Make,
    packages: dict[str, Package],
    *,
    wait: float = 1.0,
) -> tuple[bool, State]:
    """Change a registry, and bring its index and totals up to date.

    Args:
        registry: The registry.
        make: Says what is changed in an index; None if nothing is.
        packages: Artifacts that are added, by digest.
        wait: Seconds to wait when others come first, about; longer each time.

    Returns:
        Whether anything was changed, and the registry afterwards.

    Raises:
        RegistryError: If others come first all the time.
        AccessError: If the token may not do it.
        ConnectionFailed: If the change is not seen to stand.
    """
    suffix = secrets.token_hex(4)
    done = False
    with registry.turn(), room_for("kfac-total") as room:
        for attempt in range(CONFLICTS):
            state = registry.state(now=True)
            mine = _stands(suffix, state)
            wanted = None if mine else make(state.whole)
            done = done or mine
            if wanted is None and not state.behind:
                return done, state
            try:
                _commit(registry, state, _named(wanted, state, suffix), packages, room)
            except ConflictError:
                pause = min(wait * 2 ** min(attempt, 10), LONGEST_WAIT)
                time.sleep(pause * random.random())  # noqa: S311 - no secret
            except (AccessError, ConnectionFailed):  # is only the answer lost?
                if not _arrived(registry, suffix):
                    raise
    raise RegistryError(
        f"others change {registry} again and again; try again when there are fewer"
    )


def _stands(suffix: str, state: State) -> bool:
    return any(change.name.endswith(suffix) for change in state.whole.changes)


def _arrived(registry: Registry, suffix: str) -> bool:
    """Whether a change stands, as far as can be seen."""
    try:
        return _stands(suffix, registry.state(now=True))
    except KfacError:
        return False


def _named(wanted: Change | None, state: State, suffix: str) -> Change | None:
    """Give a change a name that is after all others, whatever the clock says."""
    if wanted is None:
        return None
    now = datetime.now(UTC)
    if state.whole.changes:
        last = state.whole.changes[-1].name.partition("-")[0]
        after = datetime.strptime(last, STAMP).replace(tzinfo=UTC)
        now = max(now, after + timedelta(microseconds=1))
    date = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return replace(wanted, name=f"{now.strftime(STAMP)}-{suffix}", date=date)


def _commit(
    registry: Registry,
    state: State,
    new: Change | None,
    packages: dict[str, Package],
    room: Path,
) -> None:
    """Write a change, the totals that follow from it, and the index."""
    before = state.whole
    index = before.with_changes([] if new is None else [new])
    written = _additions(new, packages)
    totals, gone = {}, []
    for name, collection in index.collections.items():
        old = collection.total
        if old is not None and collection.is_settled:
            totals[name] = old
            continue
        made = _total(registry, state, name, collection, packages, room)
        if made is not None:
            totals[name], own = made
            written |= own
        kept = totals[name].entries if made is not None else ()
        before_that = () if old is None else old.entries
        gone += [folder_of(name, None, e) for e in before_that if e not in kept]
    index = Index(index.changes, totals)
    if new is not None and new.action == WITHDRAW:
        gone = [*dict.fromkeys([*gone, *_withdrawn(registry, new, totals)])]
    texts = {} if new is None else {_file(new): dump_json(new.to_json())}
    if state.card is None or is_untouched(state.card):
        texts[CARD] = registry_card(index, str(registry)).encode()
    texts[INDEX] = index.to_bytes()
    what = "Bring the index up to date"
    if new is not None:
        what = (
            f"{new.action.capitalize()} {new.task or 'the total'} in {new.collection}"
        )
    registry.put(Plan(written, texts, gone, what), state)


def _withdrawn(
    registry: Registry, new: Change, totals: Mapping[str, Total]
) -> list[str]:
    """All that there is of a task: its folder, and every total but the new one."""
    total = totals.get(new.collection)
    kept = () if total is None else total.entries
    folders = {folder_of(new.collection, None, entry) for entry in kept}
    there = f"{new.collection}/total"
    every = [f"{there}/{name}" for name in registry.holds(there)]
    return [
        f"{new.collection}/tasks/{new.task}",
        *(path for path in every if path not in folders),
    ]


def _file(new: Change) -> str:
    return f"{LOG}/{new.name}.json"


def _additions(new: Change | None, packages: dict[str, Package]) -> dict[str, Package]:
    if new is None or new.artifact is None:
        return {}
    entries = [new.artifact, *new.variants.values()]
    return {
        folder_of(new.collection, new.task, entry): packages[entry.digest]
        for entry in entries
    }


def _total(
    registry: Registry,
    state: State,
    name: str,
    collection: Collection,
    packages: dict[str, Package],
    room: Path,
) -> tuple[Total, dict[str, Package]] | None:
    """Merge all that is in a collection, in the order of their names."""
    current = collection.current.items()

    def load(folder: str, entry: Entry) -> Artifact:
        if entry.digest in packages:
            return packages[entry.digest].artifact
        return registry.fetch(folder, entry, state)

    parts = [(folder_of(name, t, v.artifact), v.artifact) for t, v in current]
    registry.announce(part for part in parts if part[1].digest not in packages)
    artifacts = [load(*part) for part in parts]
    if not artifacts or not all(map(has_total, artifacts)):
        return None
    place = room / collection.parts.partition(":")[2]
    if not place.exists():
        merged = merge(artifacts, allow_indefinite=True)
        save_artifact(merged, place, allow_indefinite=True)
    total = Package.of(place, None)
    variants = {}
    for recipe in collection.recipes:
        own = place.with_name(f"{place.name}-{recipe}")
        if not own.exists():
            save_artifact(total.artifact, own, recipe=Recipe.parse(recipe))
        variants[recipe] = Package.of(own, None)
    entries = {recipe: entry_of(variant) for recipe, variant in variants.items()}
    found = Total(entry_of(total), collection.parts, entries)
    own_packages = (total, *variants.values())
    folders = [folder_of(name, None, entry) for entry in found.entries]
    return found, dict(zip(folders, own_packages, strict=True))


def entry_of(package: Package) -> Entry:
    """Describe an artifact that is to be added."""
    about = package.artifact.provenance
    examples = sum(source.data.examples for source in about.sources)
    return Entry(
        package.digest,
        package.size,
        about.tasks,
        examples,
        about.size,
        package.named_license,
    )
