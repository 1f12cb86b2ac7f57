"""The artifact on disk: ``spec/format.md`` in code."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.format.header import (
        Header,
        check_hashes,
        read_header,
        read_manifest,
    )
    from kfac_artifacts.format.reader import StoredFactors, load_artifact
    from kfac_artifacts.format.sizes import dense_bytes
    from kfac_artifacts.format.storage.base import Storage
    from kfac_artifacts.format.writer import (
        MAX_SHARD_BYTES,
        write_artifact,
    )

__all__ = [
    "MAX_SHARD_BYTES",
    "Header",
    "Storage",
    "StoredFactors",
    "check_hashes",
    "dense_bytes",
    "load_artifact",
    "read_header",
    "read_manifest",
    "write_artifact",
]

export_lazily(
    __name__,
    {
        "MAX_SHARD_BYTES": "writer",
        "Header": "header",
        "Storage": "storage.base",
        "StoredFactors": "reader",
        "check_hashes": "header",
        "dense_bytes": "sizes",
        "load_artifact": "reader",
        "read_header": "header",
        "read_manifest": "header",
        "write_artifact": "writer",
    },
)
