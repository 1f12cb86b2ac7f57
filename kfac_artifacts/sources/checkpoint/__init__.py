"""A pretrained model's directory as files: its weights, and what belongs to them."""

from kfac_artifacts.sources.checkpoint.base import check_base
from kfac_artifacts.sources.checkpoint.kept import (
    MARKER,
    Belongings,
    belongings,
    module_folders,
)
from kfac_artifacts.sources.checkpoint.naming import named_alike
from kfac_artifacts.sources.checkpoint.places import Place
from kfac_artifacts.sources.checkpoint.probe import Probe, addresses
from kfac_artifacts.sources.checkpoint.recorded import (
    Recorded,
    record_loading,
    replay,
    stored_name,
    stored_names,
)
from kfac_artifacts.sources.checkpoint.search import find_places
from kfac_artifacts.sources.checkpoint.shards import Checkpoint, open_checkpoint

__all__ = [
    "MARKER",
    "Belongings",
    "Checkpoint",
    "Place",
    "Probe",
    "Recorded",
    "addresses",
    "belongings",
    "check_base",
    "find_places",
    "module_folders",
    "named_alike",
    "open_checkpoint",
    "record_loading",
    "replay",
    "stored_name",
    "stored_names",
]
