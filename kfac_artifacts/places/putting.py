"""A finished directory gets to its place, and what was there before goes."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.exchange import STUCK, exchange
from kfac_artifacts.places.leftovers import GONE, finish_filling, in_order_of_going
from kfac_artifacts.places.mounts import filled
from kfac_artifacts.places.names import NEW, OLD, READY, affixes, own_entries

Check = Callable[[Path], None]


def put(new: Path, place: Path, check: Check) -> None:
    """Put a finished directory in its place; it is our turn there.

    Args:
        new: The directory; afterwards whatever is still there can be removed.
        place: Where it goes.
        check: Refuses a directory with anything in it that must not be lost.

    Raises:
        OSError: If the system refuses.
    """
    if filled(place):
        _fill(new, place)
        return
    try:
        _put_whole(new, place, check)
    except OSError as error:
        if error.errno not in STUCK or not place.is_dir():
            raise
        _fill(new, place)


def sync_tree(root: Path) -> None:
    """Flush a directory and everything in it to disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))


def _put_whole(new: Path, place: Path, check: Check) -> None:
    if not os.path.lexists(place):
        new.rename(place)
    elif exchange(new, place):
        try:
            check(new)  # what was there: somebody may have put something in since
        except PlaceError:
            exchange(new, place)
            raise
    else:
        _in_two_steps(new, place, check)
    _sync(place.parent)


def _in_two_steps(new: Path, place: Path, check: Check) -> None:
    """For systems without an exchange; a run after a kill between puts the old back."""
    start, end = affixes(place, OLD, within=False)
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=start, suffix=end))
    try:
        place.rename(old)  # an empty directory may be renamed over
    except OSError:
        old.rmdir()
        raise
    try:
        check(old)
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise
    old.rename(new)  # to be removed, no longer to be put back


def _fill(new: Path, place: Path) -> None:
    """Let a directory that must stay have other content, what readers need last."""
    inside = new
    if new.parent != place:
        start, end = affixes(place, NEW, within=True)
        inside = Path(tempfile.mkdtemp(dir=place, prefix=start, suffix=end))
        try:
            _move(new, inside)
        except BaseException:
            shutil.rmtree(inside, ignore_errors=True)
            raise
    gone = in_order_of_going(own_entries(place))
    (inside / GONE).write_text(json.dumps(gone))
    sync_tree(inside)
    inside.rename(place / READY)  # from here on a kill is made good by the next run
    finish_filling(place)
    _sync(place)


def _move(directory: Path, empty: Path) -> None:
    try:
        directory.rename(empty)
    except OSError:  # another file system
        shutil.copytree(directory, empty, dirs_exist_ok=True, symlinks=True)


def _sync(path: Path) -> None:
    if not path.is_symlink():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
