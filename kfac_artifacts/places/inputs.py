"""An output that is, holds or lies in an input is refused, however it is spelled."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places.names import settled


def check_apart(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that would be written over or into an input.

    Links, dots, case and other spellings do not matter: what counts is which file or
    directory it is. Names of something on the Hub are no files.

    Args:
        path: The output, a file or a directory; it need not be there.
        inputs: Files and directories that are read.

    Raises:
        PlaceError: If the output is, holds or lies in one of them.
    """
    place = settled(Path(path))
    around = _chain(place)
    for given in inputs:
        for source in _really(given):
            if _same(place, source):
                what = "is"
            elif any(_same(folder, source) for folder in around):
                what = "lies in"
            elif any(_same(place, folder) for folder in _chain(source)):
                what = "holds"
            else:
                continue
            raise PlaceError(
                f"the output {path} {what} the input {given}, which is never written "
                "to; choose another place"
            )


def _really(given: str | Path) -> Iterator[Path]:
    """Where an input is, and where the links in it lead."""
    try:
        source = settled(Path(given))
        if not source.exists():
            return
        yield source
        if source.is_dir():
            with os.scandir(source) as entries:
                links = [Path(e.path) for e in entries if e.is_symlink()]
            yield from (settled(link) for link in links if link.exists())
    except (OSError, ValueError):  # no path at all, or one that may not be looked at
        return


def _chain(path: Path) -> list[Path]:
    """The folders around a path, those that are there."""
    return [folder for folder in path.parents if folder.exists()]


def _same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
