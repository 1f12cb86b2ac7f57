"""The lock file: what was pulled, by revision and digest, to be pulled again."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from kfac_artifacts.compress import Recipe
from kfac_artifacts.errors import FormatError, RegistryError, SettingsError, listed
from kfac_artifacts.format import (
    check_version,
    dump_json,
    read_json,
    write_durably,
)
from kfac_artifacts.hub import (
    Hub,
    HubAddress,
    Pulled,
    digest_at,
    kind_at,
    parse,
    pull,
)
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.registry.entries import Entry, digest_in
from kfac_artifacts.registry.index import Index, folder_of
from kfac_artifacts.registry.opening import open_registry
from kfac_artifacts.registry.selection import Piece, Way
from kfac_artifacts.registry.taking import Taken, make

LOCK, FORMAT, VERSION = "kfac.lock", "kfac-lock", 1


def write_lock(lock: Path, taken: Taken) -> None:
    """Note in a lock file what was pulled, beside what else it names.

    Args:
        lock: The file.
        taken: What was pulled, into the folder of the file or one inside it.

    Raises:
        SettingsError: If it is elsewhere.
    """
    name = _within(lock, taken.pulled.directory)
    known = _read(lock) if lock.exists() else {}
    way = taken.way or Way(())
    entry: dict[str, Any] = {
        "reference": taken.pulled.reference,
        "digest": taken.pulled.digest,
        "pieces": [asdict(piece) for piece in way.pieces],
    }
    if way.recipe is not None:
        entry["recipe"] = way.recipe
    entries = dict(sorted({**known, name: entry}.items()))
    head = {"format": FORMAT, "version": VERSION}
    write_durably(lock, dump_json({**head, "pulled": entries}))


def check_lockable(lock: Path, directory: Path) -> None:
    """Refuse a place that a lock file cannot name, before anything is fetched."""
    _within(lock, directory)
    if lock.exists():
        _read(lock)


def pull_locked(
    lock: Path, *, replace: bool = False, hub: Hub | None = None
) -> list[Pulled]:
    """Pull all that a lock file names, just as it was; what is there is verified.

    Args:
        lock: The file.
        replace: Whether what this package wrote at a place may be replaced.
        hub: The Hub; by default the one of the environment.

    Returns:
        What was done, also for what was there already.

    Raises:
        FormatError: If something is not what it was, or the file is none.
        RegistryError: If something was withdrawn, or the Hub refuses.
    """
    hub = hub or Hub()
    return [
        _again(lock.parent / name, entry, replace, hub)
        for name, entry in _read(lock).items()
    ]


def _again(directory: Path, entry: dict[str, Any], replace: bool, hub: Hub) -> Pulled:
    digest, reference = entry["digest"], entry["reference"]
    if _is_there(directory, digest):
        return Pulled(directory, reference, digest, 0)
    pieces = tuple(_piece(value) for value in entry["pieces"])
    if not pieces:
        done = pull(reference, directory, replace=replace, hub=hub)
        if done.digest != digest:
            raise FormatError(f"{reference} is {done.digest} by now, not {digest}")
        return done
    registry = open_registry(reference, hub=hub)
    origin = (reference, reference, digest)
    state = registry.state()
    # a commit has all that it had; of a directory a total may be there still
    there = _total(state.index, digest) if state.head is None else None
    if there is None:
        _check_there(state.index, pieces, f"{directory}, as of {reference},")
    way = Way(pieces, entry.get("recipe")) if there is None else Way((there,))
    return make(registry, state, way, directory, origin, replace=replace)


def _total(index: Index, digest: str) -> Piece | None:
    """A total, or a compressed form of one, that still is what it was."""
    for name, collection in index.collections.items():
        entries = () if collection.total is None else collection.total.entries
        for entry in entries:
            if entry.digest == digest:
                return Piece(folder_of(name, None, entry), entry)
    return None


def _check_there(index: Index, pieces: Iterable[Piece], what: str) -> None:
    """Say what was withdrawn meanwhile, for a directory has nothing of it any more."""
    kept = {
        folder_of(name, task, entry)
        for name, collection in index.collections.items()
        for task, about in collection.tasks.items()
        for version in about.versions
        for entry in (version.artifact, *version.variants.values())
    }
    gone = [p.path for p in pieces if "/tasks/" in p.path and p.path not in kept]
    if gone:
        raise RegistryError(
            f"{what} cannot be made any more: {listed(gone, 3)} was withdrawn; pull "
            "what there is without --locked, and lock that"
        )


def _is_there(directory: Path, digest: str) -> bool:
    if not directory.is_dir():
        return False
    try:
        if digest_at(directory) != digest:
            return False
    except FormatError:
        return False
    kind_at(directory).check(directory)
    return True


def _read(lock: Path) -> dict[str, dict[str, Any]]:
    """Read a lock file: it may come from anybody."""
    fields = JsonObject(read_json(lock), str(lock))
    check_version(fields, FORMAT, VERSION)
    found = fields.each("pulled", _entry)
    fields.finish()
    for name in found:
        parts = PurePosixPath(name).parts
        if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
            raise FormatError(f"{lock} names {name!r:.80}, which is not in its folder")
    return found


def _entry(value: object, where: str) -> dict[str, Any]:
    fields = JsonObject(value, where)
    reference, digest = fields.take("reference", str), digest_in(fields, "digest")
    pieces, recipe = fields.take("pieces", list), fields.optional("recipe", str)
    for number, piece in enumerate(pieces):
        _piece(piece, f"{where}.pieces[{number}]")
    fields.finish()
    if recipe is not None:
        Recipe.parse(recipe)
    address = parse(reference)
    if isinstance(address, HubAddress) and address.revision is None:
        raise FormatError(f"{where}: {reference} is not pinned")
    found = {"reference": reference, "digest": digest, "pieces": pieces}
    return found if recipe is None else {**found, "recipe": recipe}


def _piece(value: object, where: str = "piece") -> Piece:
    fields = JsonObject(value, where)
    path, sign = fields.take("path", str), fields.take("sign", int)
    steps = path.split("/")
    fields.require(
        sign in {1, -1} and not {"", ".", ".."} & set(steps) and "\\" not in path,
        "a piece is added or taken out, and is in the registry",
    )
    entry = Entry.from_json(fields.take("entry", dict), f"{where}.entry")
    fields.finish()
    return Piece(path, entry, sign)


def _within(lock: Path, directory: Path) -> str:
    folder = lock.absolute().parent.resolve()
    place = directory.absolute().resolve()
    if not place.is_relative_to(folder) or place == folder:
        raise SettingsError(
            f"{directory} is not inside {folder}, the folder of {lock.name}, which "
            "names places from there; choose another --lock"
        )
    return place.relative_to(folder).as_posix()
