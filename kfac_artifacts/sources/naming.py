"""What local data are called in an artifact, which is published.

A name is that of the file or folder. One that everybody uses, such as ``train.csv``,
tells no task from another, so its folder is put before it. Never a name of a person:
what lies right in somebody's home directory is called by its own name alone.
"""

import os
import re
from pathlib import Path

from kfac_artifacts.names import as_name

GENERIC = re.compile(
    r"(my|the|raw|clean(ed)?|unlabell?ed|labell?ed)?[-_ ]?"
    r"(all|data(set)?|dev|documents?|downloads?|eval|examples?|export|file|files|full|"
    r"images?|inputs?|items|labels|main|metadata|output|part|photos|pictures|rows|"
    r"sample|samples|sentences|sheet|table|test|texts?|tmp|temp|train(ing)?|untitled|"
    r"val|valid|validation)?[-_ ]?(data|set|csv|texts)?[-_ (\d)]*(of[-_ ]?\d+)?",
    re.IGNORECASE,
)
HOMES = re.compile(r"(home|user)s?\d*", re.IGNORECASE)
MOST_PARTS = 3


def data_name(path: Path) -> str:
    """Name a local file or folder.

    Args:
        path: Where it is.

    Returns:
        Its name, after as many of its folders as it takes to say something; never a
        whole path, nor a home directory. With folders before it a folder ends with
        ``/``, so that it is not taken for the id of a dataset on the Hub.
    """
    place = Path(os.path.normpath(path.expanduser().absolute()))
    if _is_private(place):
        return "data"
    parts = [place.name]
    while GENERIC.fullmatch(parts[0].split(".")[0]) and len(parts) < MOST_PARTS:
        place = place.parent
        if _is_private(place):
            break
        parts.insert(0, place.name)
    folder = len(parts) > 1 and path.expanduser().is_dir()
    return as_name("/".join(parts) + "/" * folder)


def _is_private(folder: Path) -> bool:
    """Whether a folder's name is no description: of a person, or of the whole disk."""
    people = {os.environ.get(name) for name in ("USER", "LOGNAME", "USERNAME")}
    return (
        folder.name in {"", *people}
        or folder in {Path.home(), Path.home().resolve()}
        or HOMES.fullmatch(folder.parent.name) is not None
    )
