"""Locks: whoever waits has patience with each of those that come before."""

import fcntl
import os
import time
from pathlib import Path
from threading import Thread

import pytest

from kfac_artifacts.places.locks import HeldError, locked


def held(path: Path) -> int:
    """Hold a lock in the place of whoever held it, without a gap between the two."""
    made = path.with_name("next")
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    made.replace(path)
    return descriptor


def test_a_long_queue_moves_on_and_one_that_never_ends_does_not(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holders = [held(lock)]

    def others() -> None:
        for _ in range(4):
            time.sleep(0.3)
            holders.append(held(lock))
            os.close(holders[-2])
        time.sleep(0.3)
        lock.unlink()
        os.close(holders[-1])

    queue = Thread(target=others)
    queue.start()
    with locked(lock, patience=1.0):  # all of them take longer than that
        queue.join()
    holders.append(held(lock))
    with pytest.raises(HeldError, match="another process"), locked(lock, patience=0.1):
        pass
    os.close(holders[-1])
