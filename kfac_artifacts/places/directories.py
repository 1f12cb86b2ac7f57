"""Writing a directory: its place is tried first, and it appears there whole."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.faults import plain_errors, tried
from kfac_artifacts.places.inputs import check_apart
from kfac_artifacts.places.leftovers import clear, mend, recover, turn_at
from kfac_artifacts.places.locks import is_at, try_lock
from kfac_artifacts.places.mounts import confined, may
from kfac_artifacts.places.names import NEW, WORK, affixes, folder_of, settled
from kfac_artifacts.places.owned import check_replaceable
from kfac_artifacts.places.putting import put, sync_tree

TRIES = 20
"""Other runs may clear away what we have just made, before we could lock it."""


def check_free(
    path: str | Path, *, replace: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse a place that cannot be written, before any work is done.

    Args:
        path: Where a directory is to be written; links are followed.
        replace: Whether what this package wrote there may be replaced; nothing else
            ever is, but an empty directory.
        inputs: What is read: the place may not be, hold or lie in one of them.

    Raises:
        PlaceError: If the place is taken, is an input, or cannot be written.
    """
    shown = Path(path)
    with tried(shown):
        check_apart(shown, inputs)
        place = settled(shown)
        recover(place)
        _check_again(place, shown, replace=replace)
        with _scratch(place, NEW, shown):
            pass  # it can be made


@contextmanager
def new_directory(
    path: str | Path,
    *,
    replace: bool = False,
    before: Callable[[Path], None] = lambda _: None,
) -> Iterator[Path]:
    """Fill a directory beside its place; it appears there whole, or not at all.

    Where nothing can be written beside it, or it cannot be moved, as a mount point, an
    existing directory is filled from within.

    Args:
        path: Where the directory goes; links are followed.
        replace: Whether what this package wrote there may be replaced.
        before: Called with the filled directory just before it is put in its place,
            while no other run can change that; what it raises is raised.

    Yields:
        A temporary directory; fill it and leave the block.

    Raises:
        PlaceError: If the place is taken or cannot be written.
    """
    shown = Path(path)
    with tried(shown):
        place = settled(shown)
        recover(place)
        _check_again(place, shown, replace=replace)
    with _scratch(place, NEW, shown) as temporary:
        with tried(shown), turn_at(place):
            mend(place)
            clear(place)
        with plain_errors(shown):
            yield temporary
            sync_tree(temporary)
        with tried(shown), turn_at(place):
            mend(place)
            _check(place, shown, replace=replace)
            before(temporary)
            put(
                temporary,
                place,
                partial(check_replaceable, shown=shown, replace=replace),
            )


@contextmanager
def workspace(path: str | Path) -> Iterator[Path]:
    """Give room for files that are needed while a place is written.

    Args:
        path: The place.

    Yields:
        A directory on the same file system, removed afterwards.
    """
    shown = Path(path)
    with tried(shown):
        place = settled(shown)
    with _scratch(place, WORK, shown) as directory, plain_errors(shown):
        yield directory


def _check_again(place: Path, shown: Path, *, replace: bool) -> None:
    """Check a place; if it is refused, once more when nobody is replacing it."""
    try:
        _check(place, shown, replace=replace)
    except (PlaceError, FileNotFoundError) as refused:
        try:
            with turn_at(place):
                mend(place)
                _check(place, shown, replace=replace)
        except PlaceError:
            raise
        except OSError:  # it cannot be locked, so nobody here can be replacing it
            raise refused from None


def _check(place: Path, shown: Path, *, replace: bool) -> None:
    if place.is_symlink() or (os.path.lexists(place) and not place.is_dir()):
        raise PlaceError(f"{shown} exists and is no directory; choose another place")
    if not place.is_dir():
        return
    if not may(place, os.R_OK | os.W_OK | os.X_OK):
        raise PlaceError(
            f"{shown} cannot be written: it is read-only for this user; choose another "
            "place"
        )
    check_replaceable(place, shown, replace=replace)


@contextmanager
def _scratch(place: Path, kind: str, shown: Path) -> Iterator[Path]:
    """Make a hidden directory of a living run, and the folders that it needs."""
    within = confined(place)
    made: list[Path] = []
    try:
        with tried(shown):
            directory, descriptor = _make_locked(place, kind, made, within=within)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(descriptor)
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()  # what was put there stays


def _make_locked(
    place: Path, kind: str, made: list[Path], *, within: bool
) -> tuple[Path, int]:
    start, end = affixes(place, kind, within=within)
    folder = folder_of(place, within=within)
    for left in reversed(range(TRIES)):
        try:
            _make_folders(folder, made)
            directory = Path(tempfile.mkdtemp(dir=folder, prefix=start, suffix=end))
            descriptor = os.open(directory, os.O_RDONLY)
        except FileNotFoundError:
            if not left:
                raise
            continue
        if try_lock(descriptor) is not False and is_at(descriptor, directory):
            directory.chmod(directory.stat().st_mode | 0o755)
            return directory, descriptor
        os.close(descriptor)
    raise PlaceError(f"{place} is being written by other runs; try again")


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with suppress(FileExistsError):  # by another run
            each.mkdir()
            made.append(each)
