"""Writing a single file, such as a figure: what others wrote is never replaced."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.faults import tried
from kfac_artifacts.places.inputs import check_apart
from kfac_artifacts.places.names import LONGEST, settled


def check_file_free(
    path: str | Path,
    *,
    inputs: Iterable[str | Path] = (),
    is_ours: Callable[[bytes], bool],
) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Args:
        path: The file; links are followed.
        inputs: What is read: the file may not be or lie in one of them.
        is_ours: Tells by its content whether this package wrote a file.

    Raises:
        PlaceError: If the file is an input, holds something else, or cannot be written.
    """
    shown = Path(path)
    with tried(shown):
        check_apart(shown, inputs)
        place = settled(shown)
        if place.exists() and not place.is_file():
            raise PlaceError(f"{shown} exists and is no file; choose another place")
        if place.exists() and not is_ours(place.read_bytes()):
            raise PlaceError(
                f"{shown} exists already, and kfac did not write it; choose another "
                "place"
            )
        with tempfile.NamedTemporaryFile(
            dir=place.parent, prefix=f".{place.name}."[:LONGEST]
        ):
            pass
