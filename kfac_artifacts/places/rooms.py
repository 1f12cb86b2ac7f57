"""Room for files that nobody needs afterwards, among those of the system.

A run that is killed leaves its room; the next one that needs one of that kind clears it
away, told by the lock that whoever lives holds on its own.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kfac_artifacts.places.leftovers import remove_if_dead
from kfac_artifacts.places.locks import is_at, try_lock


@contextmanager
def room_for(kind: str) -> Iterator[Path]:
    """Give a directory under ``TMPDIR``, which is removed afterwards.

    Args:
        kind: What is kept there, the first part of its name; rooms of one kind that
            dead runs have left are removed.

    Yields:
        The directory.
    """
    _clear(kind)
    room, descriptor = _make(kind)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(descriptor)


def _make(kind: str) -> tuple[Path, int]:
    while True:
        room = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        try:
            descriptor = os.open(room, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another run has cleared it away before it could be locked
        if try_lock(descriptor) is not False and is_at(descriptor, room):
            return room, descriptor
        os.close(descriptor)


def _clear(kind: str) -> None:
    """Remove the rooms of dead runs of this user; where there are no locks, none."""
    if sys.platform == "win32":
        return
    name = re.compile(re.escape(kind) + r"-[a-z0-9_]{8}")
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            own = name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            if own and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                remove_if_dead(Path(entry.path))
