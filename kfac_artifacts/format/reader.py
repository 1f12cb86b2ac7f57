"""Reading an artifact: the manifest and headers at once, each factor when asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Factors, NamedConfig
from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import FACTORS, STORED_ASYMMETRY, Factor, check_factor
from kfac_artifacts.format.factor_info import FactorInfo
from kfac_artifacts.format.files import identity
from kfac_artifacts.format.header import compare_hashes, header_in, settled
from kfac_artifacts.format.tensors import open_tensors, require_accepted

MAX_OPEN = 64
"""Files that are open at the same time."""


class StoredFactors(Factors):
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
    def structure(self, name: str) -> NamedConfig:
        return self.infos[name].structure

    @override
    def storage(self, name: str) -> str | None:
        return self.infos[name].storage.name

    @override
    def is_exact(self, name: str) -> bool:
        return self.infos[name].storage.exact

    @override
    def nbytes(self, name: str) -> int:
        return self.infos[name].nbytes

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
        fields = {}
        for field, about in info.fields.items():
            tensors = {}
            for suffix in info.storage.tensors(about):
                key = f"{name}/{field}{suffix}"
                tensors[suffix] = self._handle(self._files[key]).get_tensor(key)
            fields[field] = info.storage.decode(tensors, about)
        structure = info.structure
        factor = FACTORS[structure.name].from_fields(fields, structure.configuration)
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


def load_artifact(path: str | Path, *, verify: bool = True) -> Artifact:
    """Open an artifact: check what it says of itself, and read no factor yet.

    Args:
        path: The artifact's directory.
        verify: Whether to compare the hash of every file, which reads all of them.

    Returns:
        The artifact, its factors read when they are asked for.

    Raises:
        FormatError: If anything breaks ``spec/format.md``, or a hash is wrong.
    """
    return settled(Path(path), _verified if verify else _opened)


def _opened(path: Path) -> Artifact:
    header = header_in(path)
    for file in sorted(set(header.files.values())):
        require_accepted(path / file)  # the library may refuse what we have checked
    factors = StoredFactors(path, header.factors, header.files)
    return Artifact(header.provenance, header.blocks, factors, header.digest)


def _verified(path: Path) -> Artifact:
    artifact = _opened(path)
    compare_hashes(path)
    return artifact
