"""The manifest ``task_vector.json`` (``spec/task_vector.md``)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kfac_artifacts.artifact import BaseModel, Json, NamedConfig
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import (
    FileInfo,
    TensorInfo,
    base_from_json,
    base_to_json,
    check_version,
    file_info,
    read_json,
)
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.places import recover
from kfac_artifacts.task_vector.head_info import HeadInfo, read_head

FORMAT = "kfac-task-vector"
VERSION = 1
MANIFEST = "task_vector.json"
TENSORS = "task_vector.safetensors"


@dataclass(frozen=True)
class Manifest:
    """Everything about a task vector but its numbers."""

    base: BaseModel
    output_map: NamedConfig | None
    head: HeadInfo | None
    settings: Mapping[str, Json]
    metrics: Mapping[str, Json]
    file: FileInfo

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor that must be in the file, in order."""
        return announced(self.base, self.head)


def announced(base: BaseModel, head: HeadInfo | None) -> dict[str, TensorInfo]:
    """Name and describe the stored tensors: changes first, then the head."""
    infos = {
        f"tau/{n}": TensorInfo("float32", s) for n, s in sorted(base.shapes.items())
    }
    return infos if head is None else infos | head.tensors


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Write a manifest as JSON, in the order of the specification."""
    head, output_map = manifest.head, manifest.output_map
    return {
        "format": FORMAT,
        "version": VERSION,
        "base_model": base_to_json(manifest.base),
        "output_map": None if output_map is None else asdict(output_map),
        "head": None if head is None else head.to_json(),
        "settings": dict(manifest.settings),
        "metrics": dict(manifest.metrics),
        "files": {TENSORS: asdict(manifest.file)},
    }


def manifest_from_json(value: object) -> Manifest:
    """Read and check a manifest.

    Args:
        value: Parsed JSON of ``task_vector.json``.

    Returns:
        The manifest; everything that can be checked without the tensors holds.

    Raises:
        FormatError: If a MUST of ``spec/task_vector.md`` is broken.
    """
    fields = JsonObject(value, "manifest")
    check_version(fields, FORMAT, VERSION)
    base = base_from_json(fields.take("base_model", dict), "base_model")
    fields.require(len(base.parameters) > 0, "there are no parameters")
    output_map = fields.maybe("output_map", dict)
    head = fields.maybe("head", dict)
    settings, metrics = fields.take("settings", dict), fields.take("metrics", dict)
    files = fields.each("files", file_info)
    fields.require(set(files) == {TENSORS}, f"files must list {TENSORS} and no other")
    fields.finish(extensible=True)
    return Manifest(
        base=base,
        output_map=None if output_map is None else read_named(output_map),
        head=None if head is None else read_head(head),
        settings=settings,
        metrics=metrics,
        file=files[TENSORS],
    )


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest of a task vector, and the size of its file.

    Args:
        path: The task vector's directory.

    Returns:
        The manifest; no tensor is read, and the hash not looked at.

    Raises:
        FormatError: If anything of it breaks ``spec/task_vector.md``.
    """
    directory = Path(path)
    if not (directory / MANIFEST).is_file():
        recover(directory)
    if not (directory / MANIFEST).is_file():
        raise FormatError(f"{path} is no task vector: there is no {MANIFEST} in it")
    manifest = manifest_from_json(read_json(directory / MANIFEST))
    file = directory / TENSORS
    if not file.is_file() or file.stat().st_size != manifest.file.size:
        raise FormatError(
            f"{file} is missing or does not have the {manifest.file.size} bytes that "
            f"{MANIFEST} says; fetch it again"
        )
    return manifest


def read_named(value: object) -> NamedConfig:
    """Read the output map, or whatever else has a name and a configuration."""
    fields = JsonObject(value, "output_map")
    named = NamedConfig(fields.name("name"), fields.take("configuration", dict))
    fields.finish()
    return named
