"""The artifact on disk: ``spec/format.md`` in code."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.format.header import (
        Header as Header,
        check_hashes as check_hashes,
        read_header as read_header,
        read_manifest as read_manifest,
    )
    from kfac_artifacts.format.reader import (
        StoredFactors as StoredFactors,
        load_artifact as load_artifact,
    )
    from kfac_artifacts.format.sizes import dense_bytes as dense_bytes
    from kfac_artifacts.format.storage.base import Storage as Storage
    from kfac_artifacts.format.writer import (
        MAX_SHARD_BYTES as MAX_SHARD_BYTES,
        write_artifact as write_artifact,
    )

export_lazily(__name__)
