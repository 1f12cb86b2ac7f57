"""Directories that cannot be renamed over: they are filled where they are."""

import os
import stat
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def may(place: Path, mode: int) -> bool:
    """Whether the user that this process acts for may do something there."""
    return os.access(place, mode, effective_ids=os.access in os.supports_effective_ids)


def confined(place: Path) -> bool:
    """Whether nothing can be written beside a directory, or moved from there to it."""
    try:
        return place.is_dir() and (is_mount(place) or not _may_move(place))
    except FileNotFoundError:  # another run has just moved it: it can be moved
        return False


def filled(place: Path) -> bool:
    """Whether a directory has to stay the one it is.

    Args:
        place: A place that was settled.

    Returns:
        Whether it may not be moved, or is the working directory: a shell that stands in
        it would find itself in one that was removed.
    """
    if not place.is_dir():
        return False
    try:
        return confined(place) or place.samefile(os.curdir)
    except FileNotFoundError:  # another run replaces it in two steps
        return False


def is_mount(place: Path) -> bool:
    """Whether a file system is mounted here, or a folder bound to here."""
    if place.is_mount():
        return True
    try:  # folders of the same file system look like any other
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    escapes = {"\\": "\\134", " ": "\\040", "\t": "\\011", "\n": "\\012"}
    name = "".join(escapes.get(c, c) for c in str(place))
    return any(name == line.split(" ")[4] for line in lines)


def _may_move(place: Path) -> bool:
    """Whether we may rename a directory within its folder."""
    parent = place.parent
    if not may(parent, os.W_OK | os.X_OK):
        return False
    about, user = parent.stat(), os.geteuid()
    sticky = about.st_mode & stat.S_ISVTX
    return not sticky or user in {0, about.st_uid, place.stat().st_uid}
