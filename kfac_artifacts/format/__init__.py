"""The artifact on disk: ``spec/format.md`` in code."""

from kfac_artifacts.format.reader import (
    StoredFactors,
    check_hashes,
    load,
    open_artifact,
    read_manifest,
)
from kfac_artifacts.format.storage import STORAGES, Storage
from kfac_artifacts.format.writer import MAX_SHARD_BYTES, dense_bytes, save_artifact

__all__ = [
    "MAX_SHARD_BYTES",
    "STORAGES",
    "Storage",
    "StoredFactors",
    "check_hashes",
    "dense_bytes",
    "load",
    "open_artifact",
    "read_manifest",
    "save_artifact",
]
