"""Reading an artifact: the manifest and headers at once, each factor when asked for."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from kfac_artifacts.artifact import Artifact, LazyFactors, Named
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import FACTORS, STORED_ASYMMETRY, Factor, check_factor
from kfac_artifacts.format.again import settled
from kfac_artifacts.format.consistency import INDEX, SINGLE
from kfac_artifacts.format.factor_info import FactorInfo
from kfac_artifacts.format.fields import Fields
from kfac_artifacts.format.files import identity, read_json, sha256_file
from kfac_artifacts.format.manifest import MANIFEST, Manifest, from_json
from kfac_artifacts.format.storage import TensorInfo
from kfac_artifacts.format.tensors import check_tensors, open_tensors
from kfac_artifacts.format.writer import stored

T = TypeVar("T")

MAX_OPEN = 64
"""Files that are open at the same time."""


class StoredFactors(LazyFactors):
    """Factors on disk, decoded when asked for; the last one is kept.

    Keeping one serves modules that share their input covariance.
    """

    def __init__(
        self, directory: Path, infos: Mapping[str, FactorInfo], files: Mapping[str, str]
    ) -> None:
        self.infos = infos
        self._directory = directory
        self._files = files
        self._seen = {name: identity(directory / name) for name in files.values()}
        self._handles: dict[str, Any] = {}
        self._last: tuple[str, Factor] | None = None

    def __getitem__(self, name: str) -> Factor:
        """Read, decode and check one factor.

        Args:
            name: Of the factor.

        Returns:
            The factor: a finite symmetric matrix.

        Raises:
            FormatError: If its tensors stand for none.
        """
        if self._last is None or self._last[0] != name:
            self._last = (name, self._read(name, self.infos[name]))
        return self._last[1]

    @override
    def structure(self, name: str) -> Named:
        return self.infos[name].structure

    @override
    def storage(self, name: str) -> str | None:
        return self.infos[name].storage.name

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def _read(self, name: str, info: FactorInfo) -> Factor:
        try:
            return self._decoded(name, info)
        except (FactorError, FormatError) as error:
            raise FormatError(f"{name} is damaged: {error}") from error

    def _decoded(self, name: str, info: FactorInfo) -> Factor:
        leaves = {}
        for field, about in info.fields.items():
            tensors = {}
            for suffix in info.storage.tensors(about):
                key = f"{name}/{field}{suffix}"
                tensors[suffix] = self._handle(self._files[key]).get_tensor(key)
            leaves[field] = info.storage.decode(tensors, about)
        structure = info.structure
        factor = FACTORS[structure.name].of_leaves(leaves, structure.configuration)
        check_factor(factor, STORED_ASYMMETRY)
        return factor

    def _handle(self, file: str) -> Any:
        if len(self._handles) > MAX_OPEN:
            self._handles.clear()
        if file not in self._handles:
            self._handles[file] = self._open(self._directory / file)
        return self._handles[file]

    def _open(self, file: Path) -> Any:
        """Open a file, if it is still the one that was checked."""
        handle, problem = None, None
        try:
            handle = open_tensors(file)
        except FormatError as error:
            problem = error
        if identity(file) != self._seen[file.name]:
            raise FormatError(
                f"{file} was replaced since it was opened; open the artifact again"
            ) from problem
        if problem is not None:
            raise problem
        return handle


def open_artifact(path: str | Path) -> Artifact:
    """Open an artifact: check the manifest, sizes and headers; read no tensor.

    Args:
        path: The artifact's directory.

    Returns:
        The artifact, its factors read when they are asked for.

    Raises:
        FormatError: If anything breaks ``spec/format.md``; hashes are not looked at.
    """
    return _settled(Path(path), _open)


def load(path: str | Path) -> Artifact:
    """Open an artifact after checking the hash of every file.

    Args:
        path: The artifact's directory.

    Returns:
        The artifact, its factors read when they are asked for.

    Raises:
        FormatError: If anything breaks ``spec/format.md``, or a hash is wrong.
    """
    return _settled(Path(path), _load)


def check_hashes(path: str | Path) -> None:
    """Compare every file with the size and hash in the manifest.

    Args:
        path: The artifact's directory.

    Raises:
        FormatError: If one differs; the first one is named.
    """
    _settled(Path(path), _check_hashes)


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest, and that every file has its size.

    Args:
        path: The artifact's directory.

    Returns:
        The manifest.

    Raises:
        FormatError: If it is not a manifest of this version, or a file is missing.
    """
    return _settled(Path(path), _read_manifest)


def _settled(path: Path, read: Callable[[Path], T]) -> T:
    return settled(path, MANIFEST, partial(read, path))


def _open(path: Path) -> Artifact:
    manifest = _read_manifest(path)
    files = _check_files(path, manifest)
    factors = StoredFactors(path, manifest.factors, files)
    digest = sha256_file(path / MANIFEST)
    return Artifact(manifest.provenance, manifest.blocks, factors, digest)


def _load(path: Path) -> Artifact:
    artifact = _open(path)
    _check_hashes(path)
    return artifact


def _check_hashes(path: Path) -> None:
    for name, info in _read_manifest(path).files.items():
        if sha256_file(path / name) != info.sha256:
            raise FormatError(
                f"{path / name} was damaged or changed: its sha256 is not the one in "
                f"{MANIFEST}; fetch it again"
            )


def _read_manifest(path: Path) -> Manifest:
    if not (path / MANIFEST).is_file():
        raise FormatError(f"{path} is no artifact: there is no {MANIFEST} in it")
    manifest = from_json(read_json(path / MANIFEST))
    for name, info in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise FormatError(f"{path} is incomplete: there is no {name}")
        if file.stat().st_size != info.size:
            raise FormatError(
                f"{file} has {file.stat().st_size} bytes, but the manifest says "
                f"{info.size}; fetch it again"
            )
    return manifest


def _check_files(path: Path, manifest: Manifest) -> dict[str, str]:
    """Check every header against the manifest; tell which file holds which tensor."""
    announced = {k: t for n, f in manifest.factors.items() for k, t in stored(n, f)}
    if len(manifest.files) == 1:
        check_tensors(path / SINGLE, announced)
        return dict.fromkeys(announced, SINGLE)
    files = _read_index(path, announced, manifest)
    for file in sorted(set(manifest.files) - {INDEX}):
        here = {key: info for key, info in announced.items() if files[key] == file}
        check_tensors(path / file, here)
    return files


def _read_index(
    path: Path, announced: Mapping[str, TensorInfo], manifest: Manifest
) -> dict[str, str]:
    index = Fields(read_json(path / INDEX), str(path / INDEX))
    metadata = Fields(index.take("metadata", dict), f"{index.where}: metadata")
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
