"""What killed runs have left: brought to an end, put back, or cleared away."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.locks import PAUSE, HeldError, is_at, locked, try_lock
from kfac_artifacts.places.mounts import confined
from kfac_artifacts.places.names import (
    FILLING,
    NEW,
    OLD,
    READY,
    WORK,
    hidden,
    is_folder,
    lock_of,
    settled,
)

PATIENCE = 60.0
"""Seconds to wait for another run that is just putting a directory in its place."""
GLANCE = 1.0
"""Seconds to wait where we may only read."""
GONE = ".kfac.gone"
"""Lists, in a directory that is filled, the names that it had before."""
MOST = 2**24
"""Bytes that such a list may have."""
LAST = ("config.json", "kfac_apply.json", "task_vector.json", "kfac.json")
"""What readers look for first comes last, so that they never see a part as whole."""


@contextmanager
def turn_at(place: Path) -> Iterator[None]:
    """Wait until no other run is changing a place, and let none meanwhile.

    Args:
        place: A settled place; the folder where its lock stands must be there.

    Yields:
        Nothing.

    Raises:
        PlaceError: If another run does not come to an end.
    """
    lock = lock_of(place, within=confined(place))
    try:
        with locked(lock, patience=PATIENCE):
            yield
    except HeldError as held:
        raise PlaceError(
            f"{place} is being written by another run ({held}); try again"
        ) from held


def recover(path: str | Path) -> bool:
    """Bring to an end what a killed run has left half done at a place, if anything.

    Readers call this where they find nothing: it also waits for a living run that is
    just replacing the place.

    Args:
        path: A directory, which need not be there.

    Returns:
        Whether there was anything to wait for or to bring to an end.

    Raises:
        PlaceError: If another run does not come to an end.
    """
    place = settled(Path(path))
    deadline = time.monotonic() + GLANCE
    if not _is_half_done(place):
        return False
    while _is_half_done(place) and time.monotonic() < deadline:
        try:
            with turn_at(place):
                mend(place)
                break
        except PlaceError:
            raise
        except OSError:  # a reader may be allowed to look only
            time.sleep(PAUSE)
    return True


def mend(place: Path) -> None:
    """Put back what was moved aside, and go on with filling; it is our turn."""
    if not os.path.lexists(place):
        full = [old for old in hidden(place, OLD, within=False) if any(old.iterdir())]
        if full:
            max(full, key=lambda old: old.stat().st_mtime).rename(place)
    if _is_half_filled(place):
        finish_filling(place)


def clear(place: Path) -> None:
    """Remove what dead runs have left; it is our turn, and the place is mended."""
    for within in (False, True):
        for kind in (NEW, WORK):
            for directory in hidden(place, kind, within=within):
                remove_if_dead(directory)
    for old in hidden(place, OLD, within=False):
        if place.exists() or not any(old.iterdir()):
            shutil.rmtree(old, ignore_errors=True)


def finish_filling(place: Path) -> None:
    """Take out of a directory what it had, and move in what is ready; may be repeated.

    Args:
        place: A directory in which all that belongs there is ready.
    """
    ready, filling = place / READY, place / FILLING
    if is_folder(ready):  # nothing was moved in yet
        gone = ready / GONE
        if os.path.lexists(gone):
            for name in _names_in(gone):
                _remove(place / name)
            gone.unlink()
        ready.rename(filling)
    for entry in sorted(filling.iterdir(), key=lambda e: _rank(e.name)):
        entry.rename(place / entry.name)
    filling.rmdir()


def in_order_of_going(names: list[str]) -> list[str]:
    """What readers look for first goes first."""
    return sorted(names, key=_rank, reverse=True)


def _rank(name: str) -> int:
    return LAST.index(name) if name in LAST else -1


def _is_half_done(place: Path) -> bool:
    if not os.path.lexists(place):
        return any(hidden(place, OLD, within=False))
    return _is_half_filled(place)


def _is_half_filled(place: Path) -> bool:
    return is_folder(place / READY) or is_folder(place / FILLING)


def _names_in(gone: Path) -> list[str]:
    """Read what is to go, trusting nobody: a directory may come from anywhere."""
    try:
        names = json.loads(gone.read_bytes()) if gone.lstat().st_size < MOST else None
    except (OSError, ValueError, RecursionError):
        names = None
    listed = isinstance(names, list) and not gone.is_symlink()
    if not listed or not all(_is_name(name) for name in names or ()):
        raise PlaceError(
            f"{gone.parent} is not what kfac leaves while it fills a directory, so "
            "nothing is touched; remove it"
        )
    return list(names or ())


def _is_name(name: object) -> bool:
    """Whether something names an entry of a directory, and leads nowhere else."""
    plain = isinstance(name, str) and name not in {"", ".", ".."}
    return plain and not {"/", "\0", os.sep, os.altsep or "/"} & set(str(name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_if_dead(directory: Path) -> None:
    """Remove a directory that its owner, who locks it while alive, cannot need."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if try_lock(descriptor) and is_at(descriptor, directory):
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(descriptor)
