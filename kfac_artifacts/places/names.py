"""Names of what is hidden beside or within a place while it is written."""

import hashlib
import os
import re
from pathlib import Path

from kfac_artifacts.places.mounts import is_mount

LONGEST = 200
"""Bytes of a name that is kept readable; file systems take 255 with what is added."""
READY, FILLING = ".kfac.ready", ".kfac.filling"
CHECKPOINT, LOCK = ".kfac.checkpoint", ".kfac.lock"
NEW, OLD, WORK = "new", "old", "work"
INTERNAL = re.compile(
    r"\.kfac\.(lock|ready|filling|checkpoint|(new|old|work)\.[a-z0-9_]{8})"
)
FOREIGN_TO_ALL = frozenset({"lost+found"})
"""What a file system itself keeps in its root; empty elsewhere, it is nothing."""


def settled(path: Path) -> Path:
    """Resolve links and dots: where a place really is, whether it is there or not."""
    return Path(os.path.realpath(path))


def version_place(path: Path, tag: str) -> Path:
    """Where a version stays that another one has taken the place of: beside it."""
    place = settled(path)
    return place.with_name(f"{place.name}@{tag}")


def folder_of(place: Path, *, within: bool) -> Path:
    """Where hidden directories of a place stand."""
    return place if within else place.parent


def affixes(place: Path, kind: str, *, within: bool) -> tuple[str, str]:
    """Beginning and end of the name of a hidden directory."""
    if within:
        return f".kfac.{kind}.", ""
    return f".{_stem(place)}.{kind}.", ".kfac"


def lock_of(place: Path, *, within: bool) -> Path:
    """The lock that orders the runs that write a place."""
    name = LOCK if within else f".{_stem(place)}.lock.kfac"
    return folder_of(place, within=within) / name


def hidden(place: Path, kind: str, *, within: bool) -> list[Path]:
    """List the hidden directories of one kind, whoever they belong to."""
    start, end = affixes(place, kind, within=within)
    pattern = re.compile(re.escape(start) + r"[a-z0-9_]{8}" + re.escape(end))
    try:
        with os.scandir(folder_of(place, within=within)) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return sorted(found)


def own_entries(directory: Path) -> list[str]:
    """Names in a directory, but for what is hidden there while it is written."""
    try:
        with os.scandir(directory) as entries:
            return sorted(e.name for e in entries if not _is_passed_over(e, directory))
    except FileNotFoundError:  # another run is replacing it in two steps just now
        return []


def is_folder(path: Path) -> bool:
    """Whether there is a directory, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _is_passed_over(entry: os.DirEntry[str], directory: Path) -> bool:
    folder = entry.is_dir(follow_symlinks=False)
    if entry.name in FOREIGN_TO_ALL and folder:
        return is_mount(directory) or not os.listdir(entry)  # noqa: PTH208 - a path
    if not INTERNAL.fullmatch(entry.name):
        return False
    return folder or (entry.name == LOCK and entry.is_file(follow_symlinks=False))


def _stem(place: Path) -> str:
    name = os.fsencode(place.name)
    if len(name) <= LONGEST:
        return place.name
    return hashlib.sha256(name).hexdigest()[:32]
