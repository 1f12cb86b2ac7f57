"""What one commit writes and deletes, and whether a listing shows all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import FileInfo
from kfac_artifacts.hub.address import HubAddress
from kfac_artifacts.hub.answers import Entry
from kfac_artifacts.hub.package import Parcel


@dataclass(frozen=True)
class Shipment:
    """An artifact on its way to a folder of a repository.

    Attributes:
        package: The artifact; all of its tensor files are sent.
        address: Where it goes.
        texts: The manifest and the cards that are written, by path.
        deleted: Paths of tensor files of an earlier artifact.
    """

    package: Parcel
    address: HubAddress
    texts: Mapping[str, bytes]
    deleted: Sequence[str]

    @cached_property
    def tensor_files(self) -> dict[str, FileInfo]:
        """Size and hash of the files beside the manifest, by name."""
        return {
            n: i
            for n, i in self.package.files.items()
            if n != self.package.kind.manifest
        }

    @property
    def paths(self) -> list[str]:
        """Every path that is written or deleted."""
        files = [self.address.file(name) for name in self.tensor_files]
        return [*files, *self.texts, *self.deleted]

    def operations(self) -> list[CommitOperationAdd | CommitOperationDelete]:
        """What the client is to do."""
        texts = [CommitOperationAdd(path, text) for path, text in self.texts.items()]
        files = [self._addition(n, i) for n, i in self.tensor_files.items()]
        return [*files, *texts, *map(CommitOperationDelete, self.deleted)]

    def is_all_in(self, listed: Mapping[str, Entry]) -> bool:
        """Whether a listing shows everything as it was sent."""
        if any(path in listed for path in self.deleted):
            return False
        for path, text in self.texts.items():
            if path not in listed or not listed[path].is_of(text):
                return False
        for name, info in self.tensor_files.items():
            entry = listed.get(self.address.file(name))
            if entry is None:
                return False
            if not entry.is_of_file(self.package.directory / name, info):
                return False
        return True

    def _addition(self, name: str, info: FileInfo) -> CommitOperationAdd:
        """Take a file as it was checked: it may have changed since."""
        path, file = self.address.file(name), self.package.directory / name
        if name.endswith(".safetensors"):
            addition = CommitOperationAdd(path, file)
        else:
            addition = CommitOperationAdd(path, file.read_bytes())
        if addition.upload_info.sha256.hex() != info.sha256:
            raise FormatError(f"{file} changed while it was being pushed; push again")
        return addition
