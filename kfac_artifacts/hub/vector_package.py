"""A task vector on its way into a registry, with the card that it gets there."""

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from kfac_artifacts.artifact import BaseModel
from kfac_artifacts.format import parse_json
from kfac_artifacts.hub.artifact_files import CARD, ORIGIN, read_signature
from kfac_artifacts.hub.kinds import TASK_VECTOR
from kfac_artifacts.hub.package import Parcel
from kfac_artifacts.hub.plain_files import check_plain, read_plain
from kfac_artifacts.hub.vector_card import vector_card
from kfac_artifacts.task_vector import Manifest, manifest_from_json


@dataclass(frozen=True)
class VectorPackage(Parcel):
    """A task vector that was checked and is to be pushed.

    Attributes:
        about: What its manifest says.
    """

    kind = TASK_VECTOR
    about: Manifest

    @classmethod
    def of(cls, directory: Path, license: str | None) -> "VectorPackage":
        """Check a task vector with its hash, and take it.

        Args:
            directory: Where it stands.
            license: Licence to be named in its card.

        Returns:
            The package.
        """
        name = TASK_VECTOR.manifest
        check_plain(directory, (name, CARD, ORIGIN))
        manifest = read_plain(directory / name)
        TASK_VECTOR.check(directory)
        about = manifest_from_json(parse_json(manifest, name))
        return cls(directory, manifest, license, read_signature(directory), about)

    @property
    @override
    def base(self) -> BaseModel:
        return self.about.base

    @override
    def new_card(self, place: str, license: str | None) -> str:
        return vector_card(self.about, self.size, place, license)

    @property
    @override
    def picture(self) -> None:
        return None
