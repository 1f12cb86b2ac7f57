"""The artifact on disk: ``spec/format.md`` in code."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.format.again import LOOKS as LOOKS, settled as settled
    from kfac_artifacts.format.also_for import also_for as also_for
    from kfac_artifacts.format.checkpoint import (
        CHECKPOINT_MANIFEST as CHECKPOINT_MANIFEST,
        Checkpoint as Checkpoint,
        State as State,
    )
    from kfac_artifacts.format.coding import (
        encode_factor as encode_factor,
        rounded as rounded,
    )
    from kfac_artifacts.format.factor_info import (
        FactorInfo as FactorInfo,
        factor_info as factor_info,
        stored as stored,
    )
    from kfac_artifacts.format.files import (
        dump_json as dump_json,
        identity as identity,
        read_json as read_json,
        sha256_file as sha256_file,
        write_durably as write_durably,
    )
    from kfac_artifacts.format.header import (
        Header as Header,
        check_hashes as check_hashes,
        read_header as read_header,
        read_manifest as read_manifest,
    )
    from kfac_artifacts.format.json_text import (
        MAX_JSON_BYTES as MAX_JSON_BYTES,
        parse_json as parse_json,
    )
    from kfac_artifacts.format.manifest import (
        MANIFEST as MANIFEST,
        SIGNATURE as SIGNATURE,
        FileInfo as FileInfo,
        Manifest as Manifest,
        base_from_json as base_from_json,
        base_to_json as base_to_json,
        check_version as check_version,
        file_info as file_info,
        manifest_from_json as manifest_from_json,
    )
    from kfac_artifacts.format.outline import (
        ForeignFactor as ForeignFactor,
        Outline as Outline,
        Unknown as Unknown,
        read_outline as read_outline,
    )
    from kfac_artifacts.format.reader import (
        StoredFactors as StoredFactors,
        load_artifact as load_artifact,
    )
    from kfac_artifacts.format.sizes import (
        dense_bytes as dense_bytes,
        described as described,
        overhead as overhead,
    )
    from kfac_artifacts.format.storage.base import (
        Storage as Storage,
        TensorInfo as TensorInfo,
        packed as packed,
    )
    from kfac_artifacts.format.tensors import (
        check_tensors as check_tensors,
        open_tensors as open_tensors,
        write_tensors as write_tensors,
    )
    from kfac_artifacts.format.writer import (
        DEFAULT_STORAGE as DEFAULT_STORAGE,
        MAX_SHARD_BYTES as MAX_SHARD_BYTES,
        write_artifact as write_artifact,
    )

export_lazily(__name__)
