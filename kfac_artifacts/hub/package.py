"""What is on its way into a registry, with the card that it gets there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from kfac_artifacts.artifact import Artifact, BaseModel
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import MANIFEST, SIGNATURE, FileInfo, load_artifact
from kfac_artifacts.hub.artifact_files import (
    CARD,
    CHANGED,
    ORIGIN,
    digest_in,
    read_card,
    read_signature,
)
from kfac_artifacts.hub.card import license_of, model_card
from kfac_artifacts.hub.kinds import ARTIFACT, Kind
from kfac_artifacts.hub.mark import is_untouched
from kfac_artifacts.hub.picture import draw, drawn_factors
from kfac_artifacts.hub.plain_files import check_plain, read_plain
from kfac_artifacts.operator import BlockPortrait, portrait


@dataclass(frozen=True)
class Parcel(ABC):
    """A directory that was checked and is to be pushed.

    Attributes:
        directory: Where it stands.
        manifest: The bytes of its manifest, as they were checked.
        license: Licence to be named in its card; None keeps what an earlier card named.
        signature: What ``kfac sign`` left beside it, or None.
    """

    kind: ClassVar[Kind]
    directory: Path
    manifest: bytes
    license: str | None
    signature: bytes | None

    @property
    @abstractmethod
    def base(self) -> BaseModel:
        """The model that it is of."""

    @abstractmethod
    def new_card(self, place: str, license: str | None) -> str:
        """Describe it, for people who pull it from a place."""

    @cached_property
    def digest(self) -> str:
        """The digest of its manifest."""
        return digest_in(self.manifest, self.directory / self.kind.manifest)

    @cached_property
    def files(self) -> dict[str, FileInfo]:
        """Every file of it but its card, the manifest last."""
        own = FileInfo(len(self.manifest), sha256(self.manifest).hexdigest())
        name = self.kind.manifest
        return {
            **self.kind.files_of(self.manifest, self.directory / name),
            name: own,
        }

    @property
    def size(self) -> int:
        """Size of those files in bytes."""
        return sum(info.size for info in self.files.values())

    @property
    def named_license(self) -> str | None:
        """The licence that its card names or will name, if any."""
        return self.license or license_of(read_card(self.directory))

    def card(self, place: str, existing: str | None) -> str | None:
        """Choose the card for a place.

        Args:
            place: Address that the card tells people to pull from.
            existing: The card that is there already, or None.

        Returns:
            The card to write, or None to keep the one that somebody edited: an edited
            card is never overwritten, a generated one follows what is pushed.
        """
        if existing is not None and not is_untouched(existing):
            return None
        own = read_card(self.directory)
        if own is not None and not is_untouched(own):
            return own
        license = self.license or license_of(existing) or license_of(own)
        return self.new_card(place, license)

    @property
    @abstractmethod
    def picture(self) -> bytes | None:
        """The picture that its card shows; None if there is none."""

    def picture_over(self, existing: bytes | None, *, shown: bool) -> bytes | None:
        """Choose the picture for a place, as the card is chosen.

        Args:
            existing: The picture of an earlier artifact that is there, or None.
            shown: Whether the card that shows it is written.

        Returns:
            The picture to write, or None to leave what is there.
        """
        edited = existing is not None and not is_untouched(existing.decode("latin-1"))
        return self.picture if shown and not edited else None


@dataclass(frozen=True)
class Package(Parcel):
    """An artifact that was checked and is to be pushed.

    Attributes:
        artifact: The artifact.
    """

    kind = ARTIFACT
    artifact: Artifact

    @classmethod
    def of(cls, directory: Path, license: str | None) -> "Package":
        """Check an artifact with its hashes, and take it.

        Tensor files may be links, to another disk for example: their hashes tell that
        they are the artifact's own. Nothing else may.

        Args:
            directory: Where it stands.
            license: Licence to be named in its card.

        Returns:
            The package.

        Raises:
            FormatError: If it is damaged, or one of its files is a link.
        """
        check_plain(directory, (MANIFEST, CARD, SIGNATURE, ORIGIN))
        artifact = load_artifact(directory)
        manifest = read_plain(directory / MANIFEST)
        if digest_in(manifest, directory / MANIFEST) != artifact.digest:
            raise FormatError(CHANGED.format(directory / MANIFEST))
        signature = read_signature(directory)
        return cls(directory, manifest, license, signature, artifact)

    @property
    @override
    def base(self) -> BaseModel:
        return self.artifact.provenance.base

    @override
    def new_card(self, place: str, license: str | None) -> str:
        return model_card(self.artifact, self._portraits, self.size, place, license)

    @cached_property
    @override
    def picture(self) -> bytes:
        return draw(self.artifact.blocks, self._portraits)

    @cached_property
    def _portraits(self) -> dict[str, BlockPortrait]:
        drawn = drawn_factors(self.artifact.blocks).values()
        return portrait(self.artifact, {name for names in drawn for name in names})
