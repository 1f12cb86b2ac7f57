"""Places that are written: tried before the work, replaced in one step, never by force.

Whatever this package writes is written through here. A directory appears whole or not
at all, only what this package wrote itself (recognised by its content) or an empty
directory is ever replaced, and no input is ever written to.
"""

from kfac_artifacts.places.checkpoints import checkpoint_beside, claimed, hold
from kfac_artifacts.places.directories import check_free, new_directory, workspace
from kfac_artifacts.places.faults import FULL, plain_errors
from kfac_artifacts.places.files import check_file_free
from kfac_artifacts.places.inputs import check_apart
from kfac_artifacts.places.leftovers import recover
from kfac_artifacts.places.names import own_entries, version_place
from kfac_artifacts.places.owned import (
    ADAPTER_FORMAT,
    ADAPTER_MARKER,
    APPLIED_FORMAT,
    APPLIED_MARKER,
    contents_of,
)
from kfac_artifacts.places.rooms import room_for
from kfac_artifacts.places.turns import turn_in

__all__ = [
    "ADAPTER_FORMAT",
    "ADAPTER_MARKER",
    "APPLIED_FORMAT",
    "APPLIED_MARKER",
    "FULL",
    "check_apart",
    "check_file_free",
    "check_free",
    "checkpoint_beside",
    "claimed",
    "contents_of",
    "hold",
    "new_directory",
    "own_entries",
    "plain_errors",
    "recover",
    "room_for",
    "turn_in",
    "version_place",
    "workspace",
]
