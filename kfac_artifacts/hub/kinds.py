"""What is pushed and pulled: artifacts, and task vectors."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts import task_vector
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import (
    MANIFEST,
    FileInfo,
    check_hashes,
    manifest_from_json,
    parse_json,
    read_header,
    sha256_file,
)


@dataclass(frozen=True)
class Kind:
    """One kind of directory.

    Attributes:
        name: What it is called.
        manifest: The file that makes a directory one.
        tensor_file: The names that its other files have.
        files: The other files, from a parsed manifest.
        check: Refuses a directory whose files are not what its manifest says.
    """

    name: str
    manifest: str
    tensor_file: re.Pattern[str]
    files: Callable[[object], Mapping[str, FileInfo]]
    check: Callable[[Path], None]

    def files_of(self, manifest: bytes, where: Path) -> dict[str, FileInfo]:
        """Read which files one has; they themselves need not be there.

        Args:
            manifest: The bytes of a manifest.
            where: Where it is, for the error.

        Returns:
            Size and hash of every file by name; no name leads out of a directory.

        Raises:
            FormatError: If it is no valid manifest.
        """
        try:
            return dict(self.files(parse_json(manifest, self.manifest)))
        except FormatError as error:
            raise FormatError(f"{where} is not valid: {error}") from error


def _check_artifact(directory: Path) -> None:
    check_hashes(directory)
    read_header(directory)


def _check_vector(directory: Path) -> None:
    manifest = task_vector.read_manifest(directory)
    file = directory / task_vector.TENSORS
    if sha256_file(file) != manifest.file.sha256:
        raise FormatError(
            f"{file} was damaged or changed: its sha256 is not the one in "
            f"{task_vector.MANIFEST}; fetch it again, or ask its owner"
        )


ARTIFACT = Kind(
    "KFAC artifact",
    MANIFEST,
    re.compile(
        r"factors(-\d{5}-of-\d{5})?\.safetensors|factors\.safetensors\.index\.json"
    ),
    lambda value: manifest_from_json(value).files,
    _check_artifact,
)
TASK_VECTOR = Kind(
    "task vector",
    task_vector.MANIFEST,
    re.compile(re.escape(task_vector.TENSORS)),
    lambda value: {task_vector.TENSORS: task_vector.manifest_from_json(value).file},
    _check_vector,
)
KINDS = (ARTIFACT, TASK_VECTOR)


def kind_among(names: Iterable[str]) -> Kind | None:
    """Say what a directory with files of these names is; None if it is neither."""
    there = set(names)
    return next((kind for kind in KINDS if kind.manifest in there), None)


def kind_at(directory: Path) -> Kind:
    """Say what stands at a place; an artifact, if nobody can tell."""
    there = (k.manifest for k in KINDS if (directory / k.manifest).is_file())
    return kind_among(there) or ARTIFACT
