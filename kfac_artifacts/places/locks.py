"""Locks of which a dead process holds none: ``flock`` on files that come and go."""

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PAUSE = 0.01
"""Seconds between two tries."""
HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


class HeldError(Exception):
    """Another process holds a lock; the message says which."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or directory, without waiting.

    Args:
        descriptor: Of the open file.

    Returns:
        Whether it is locked now; None if this file system has no locks.
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        there = path.lstat()
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


@contextmanager
def locked(path: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file; it is removed again, and harmless if it is not.

    Where the file system has no locks, nothing is held.

    Args:
        path: The lock file.
        patience: Seconds to wait for whoever holds it; whoever holds it next has as
            many again, so that a long queue moves on however slow the machine is.

    Yields:
        Nothing.

    Raises:
        HeldError: If one process holds it for longer.
    """
    descriptor = _take(path, patience)
    try:
        yield
    finally:
        with suppress(OSError):
            if is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _take(path: Path, patience: float) -> int:
    seen, deadline = None, 0.0
    while True:
        descriptor = _open(path)
        got = try_lock(descriptor)
        # whoever held it before has removed it: then it locks nothing any more
        if got is not False and is_at(descriptor, path):
            with suppress(OSError):
                os.truncate(descriptor, 0)
                os.write(descriptor, _self().encode())
            return descriptor
        now, about = time.monotonic(), os.fstat(descriptor)
        os.close(descriptor)
        if got is False:
            if (about.st_ino, about.st_mtime_ns) != seen:  # it is another's turn
                seen, deadline = (about.st_ino, about.st_mtime_ns), now + patience
            if now >= deadline:
                raise HeldError(holder(path))
        time.sleep(PAUSE if got is False else 0)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # of another user


def holder(path: Path) -> str:
    """Say which process wrote a lock file last."""
    try:
        return path.read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
