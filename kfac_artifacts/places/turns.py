"""Taking turns in a folder whose files are changed one after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.faults import tried
from kfac_artifacts.places.locks import HeldError, locked
from kfac_artifacts.places.names import LOCK


@contextmanager
def turn_in(folder: Path, *, patience: float) -> Iterator[None]:
    """Wait until no other run is changing a folder, and let none meanwhile.

    Args:
        folder: The folder; it is made if it is not there.
        patience: Seconds to wait.

    Yields:
        Nothing.

    Raises:
        PlaceError: If another run, which is named, is not done by then.
    """
    with tried(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK, patience=patience):
            yield
    except HeldError as held:
        raise PlaceError(
            f"{folder} is being changed by {held}, for more than {patience:.0f} "
            "seconds; try again"
        ) from held
