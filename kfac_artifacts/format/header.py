"""What an artifact says of itself, read without torch: manifest, index and headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from kfac_artifacts.artifact import Block, Provenance
from kfac_artifacts.canonical import digest_of
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import again
from kfac_artifacts.format.consistency import INDEX, SINGLE
from kfac_artifacts.format.factor_info import FactorInfo, stored
from kfac_artifacts.format.files import read_json, sha256_file
from kfac_artifacts.format.manifest import (
    MANIFEST,
    FileInfo,
    Manifest,
    manifest_from_json,
)
from kfac_artifacts.format.storage.base import TensorInfo
from kfac_artifacts.format.tensor_header import check_header
from kfac_artifacts.json_object import JsonObject

REGISTRY = "registry.json"
"""What a registry has in place of a manifest (``spec/registry.md``)."""
T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """Everything about an artifact on disk but the numbers in its factors.

    Attributes:
        provenance: Where it comes from.
        blocks: What its blocks cover, by name.
        factors: How its factors are stored, by name.
        files: Name of the file that holds a tensor, by the tensor's name.
        digest: That of the manifest: ``sha256:`` and 64 digits.
    """

    provenance: Provenance
    blocks: Mapping[str, Block]
    factors: Mapping[str, FactorInfo]
    files: Mapping[str, str]
    digest: str

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every covered parameter with its shape."""
        return self.provenance.base.shapes

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every block."""
        return {name: block.kind for name, block in self.blocks.items()}

    @property
    def nbytes(self) -> int:
        """Size of all tensors, in bytes."""
        return sum(info.nbytes for info in self.factors.values())


def read_header(path: str | Path) -> Header:
    """Check the manifest, sizes and headers of an artifact; read no tensor.

    Args:
        path: The artifact's directory.

    Returns:
        What it says of itself.

    Raises:
        FormatError: If anything breaks ``spec/format.md``; hashes and numbers are not
            looked at.
    """
    return settled(Path(path), header_in)


def check_hashes(path: str | Path) -> None:
    """Compare every file with the size and hash in the manifest.

    Args:
        path: The artifact's directory.

    Raises:
        FormatError: If one differs; the first one is named.
    """
    settled(Path(path), compare_hashes)


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest, and that every file has its size.

    Args:
        path: The artifact's directory.

    Returns:
        The manifest.

    Raises:
        FormatError: If it is not a manifest of this version, or a file is missing.
    """
    manifest, _ = settled(Path(path), _read_manifest)
    return manifest


def settled(path: Path, read: Callable[[Path], T]) -> T:
    """Read an artifact: again, if another run has replaced it meanwhile."""
    return again.settled(path, MANIFEST, partial(read, path))


def header_in(path: Path) -> Header:
    """Read a header once; see ``read_header``."""
    manifest, digest = _read_manifest(path)
    files = _check_headers(path, manifest)
    return Header(manifest.provenance, manifest.blocks, manifest.factors, files, digest)


def compare_hashes(path: Path) -> None:
    """Compare hashes once; see ``check_hashes``."""
    manifest, _ = _read_manifest(path)
    for name, info in manifest.files.items():
        if sha256_file(path / name) != info.sha256:
            raise FormatError(
                f"{path / name} was damaged or changed: its sha256 is not the one in "
                f"{MANIFEST}; fetch it again"
            )


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read a manifest, with its digest."""
    if not (path / MANIFEST).is_file():
        why = f"there is no {MANIFEST} in it"
        if (path / REGISTRY).is_file():
            why += f"; it is a registry, of which `kfac pull {path} total` makes one"
        elif not path.exists():
            why = "there is no such directory"
        raise FormatError(f"{path} is no artifact: {why}")
    content = read_json(path / MANIFEST)
    manifest = manifest_from_json(content)
    check_sizes(path, manifest.files)
    return manifest, digest_of(content)


def check_sizes(path: Path, files: Mapping[str, FileInfo]) -> None:
    """Check that files are there with the sizes that the manifest says.

    Args:
        path: The artifact's directory.
        files: What the manifest says of them.

    Raises:
        FormatError: If one is missing, or has another size.
    """
    for name, info in files.items():
        file = path / name
        if not file.is_file():
            raise FormatError(f"{path} is incomplete: there is no {name}")
        if file.stat().st_size != info.size:
            raise FormatError(
                f"{file} has {file.stat().st_size} bytes, but the manifest says "
                f"{info.size}; fetch it again"
            )


def _check_headers(path: Path, manifest: Manifest) -> dict[str, str]:
    """Check every header against the manifest; tell which file holds which tensor."""
    announced = stored(manifest.factors)
    if len(manifest.files) == 1:
        check_header(path / SINGLE, announced)
        return dict.fromkeys(announced, SINGLE)
    files = _read_index(path, announced, manifest)
    for file in sorted(set(manifest.files) - {INDEX}):
        here = {key: info for key, info in announced.items() if files[key] == file}
        check_header(path / file, here)
    return files


def _read_index(
    path: Path, announced: Mapping[str, TensorInfo], manifest: Manifest
) -> dict[str, str]:
    index = JsonObject(read_json(path / INDEX), str(path / INDEX))
    metadata = JsonObject(index.take("metadata", dict), f"{index.where}: metadata")
    total = sum(info.nbytes for info in announced.values())
    same = metadata.count("total_size") == total
    metadata.require(same, "total_size is not the sum over the tensors")
    metadata.finish()
    files = index.take("weight_map", dict)
    index.finish()
    same = files.keys() == announced.keys()
    index.require(same, "it does not map the tensors of the manifest")
    named = {file if isinstance(file, str) else None for file in files.values()}
    same = named == set(manifest.files) - {INDEX}
    index.require(same, "it does not map to the files of the manifest")
    return files
