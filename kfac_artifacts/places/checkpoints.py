"""Where a long run keeps what is done so far; one run at a time."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.directories import check_free
from kfac_artifacts.places.faults import tried
from kfac_artifacts.places.inputs import check_apart
from kfac_artifacts.places.locks import HeldError, locked
from kfac_artifacts.places.mounts import confined
from kfac_artifacts.places.names import CHECKPOINT, settled

LOCK = ".lock"
TRIES = 20

_held: set[tuple[Path, int]] = set()


def checkpoint_beside(output: str | Path) -> Path:
    """Say where the checkpoint of an output is kept.

    Args:
        output: The output.

    Returns:
        ``NAME.checkpoint`` beside it; within it, hidden, if it is a mount point or
        nothing can be written beside it.
    """
    path = Path(output)
    with tried(path):
        place = settled(path)
        if confined(place):
            return place / CHECKPOINT
        plain = path.name not in {"", ".."} and not path.is_symlink()
        beside = path if plain else place
        return beside.with_name(f"{beside.name}.checkpoint")


@contextmanager
def claimed(
    output: str | Path, *, replace: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Try the output of a long run before the work, and hold its checkpoint.

    If a launcher has started several processes, they hold it when they have met.

    Args:
        output: The output.
        replace: Whether what this package wrote there may be replaced.
        inputs: What is read: neither the output nor its checkpoint may be there.

    Yields:
        Where the checkpoint is.

    Raises:
        PlaceError: If the output is refused, or another run has its checkpoint.
    """
    inputs = list(inputs)
    check_free(output, replace=replace, inputs=inputs)
    checkpoint = checkpoint_beside(output)
    check_apart(checkpoint, inputs)
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
    with hold(checkpoint) if alone else nullcontext():
        yield checkpoint


@contextmanager
def hold(checkpoint: str | Path) -> Iterator[None]:
    """Keep other processes from a checkpoint; this thread may hold it again.

    A process that has died holds nothing. Of several processes that compute together
    only the main one may do this.

    Args:
        checkpoint: The directory; it is removed again if nothing was kept in it.

    Yields:
        Nothing.

    Raises:
        PlaceError: If another process holds it, or it cannot be written.
    """
    shown = Path(checkpoint)
    with tried(shown):
        key = (settled(shown), threading.get_ident())
    if key in _held:
        yield
        return
    with _locked_directory(shown):
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


@contextmanager
def _locked_directory(directory: Path) -> Iterator[None]:
    missing = [f for f in (directory, *directory.parents) if not f.exists()]
    with ExitStack() as stack:
        stack.callback(_remove_empty, missing or [directory])
        for left in reversed(range(TRIES)):
            try:
                with tried(directory):
                    directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(directory / LOCK))
                break
            except FileNotFoundError:  # a run that has just ended has removed it
                if not left:
                    raise
            except HeldError as held:
                raise PlaceError(
                    f"another run ({held}) keeps its checkpoint in {directory}; wait "
                    "for it, or choose another output"
                ) from held
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
