"""Reading files that belong together from a place that other runs may replace."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format.files import identity
from kfac_artifacts.places import recover

T = TypeVar("T")

MISSING = 5
"""How often a place must be missing at two looks before it is said to be."""
LOOKS = 50
"""How often to look again at a place that other runs are replacing."""


def settled(path: Path, manifest: str, read: Callable[[], T]) -> T:
    """Read what belongs together: again, if another run has replaced it meanwhile.

    Args:
        path: The directory.
        manifest: Name of the file that tells whether it is still the same.
        read: Reads several files of it.

    Returns:
        What was read.

    Raises:
        FormatError: As ``read`` raised it, or if the place is replaced all the time.
        OSError: As ``read`` raised it.
    """
    missing = 0
    for _ in range(LOOKS):
        before = identity(path / manifest)
        moving = before is None and recover(path)
        try:
            found = read()
        except (FormatError, OSError):
            same = identity(path / manifest) == before
            if same and not moving and (before is not None or not recover(path)):
                missing += before is None
                if before is not None or missing > MISSING:
                    raise
                time.sleep(0.002)  # another run may be between two renames each time
        else:
            if identity(path / manifest) == before:
                return found
    raise FormatError(f"{path} is being replaced again and again; try again later")
