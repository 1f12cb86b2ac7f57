"""What an export is, and writing one: whole or not at all, and of what is fit for it.

Another one is a class, and a line in ``choices.EXPORTS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.compress import judge_uses
from kfac_artifacts.errors import MismatchError, PlaceError
from kfac_artifacts.format import load_artifact, read_header
from kfac_artifacts.places import check_file_free, new_directory, workspace


@dataclass(frozen=True)
class Export(ABC):
    """A format that other programs take curvature in.

    Attributes:
        modules: Patterns of the names of modules to write; empty means all.
        prefix: What other programs have before the names of modules: ``model.``.
        name: What users call it.
        use: What is done with it there, one of ``compress.USES``.
        is_file: Whether it is one file, and not a directory.
    """

    name: ClassVar[str]
    use: ClassVar[str]
    is_file: ClassVar[bool] = False

    modules: tuple[str, ...] = ()
    prefix: str = ""

    @abstractmethod
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        """Write it.

        Args:
            artifact: The artifact.
            place: A file that is not there yet, or an empty directory.

        Returns:
            Wanted modules that the format has no place for, with the reason.

        Raises:
            KfacError: If the artifact does not hold what the format needs.
        """


def export_artifact(
    source: str | Path, export: Export, output: str | Path, *, allow_unfit: bool = False
) -> Mapping[str, str]:
    """Write an artifact in another format.

    Args:
        source: The artifact's directory.
        export: The format.
        output: Where to write; there must be nothing yet.
        allow_unfit: Whether it is written although compression has lost what is needed
            there, or nobody knows.

    Returns:
        Wanted modules that were not written, with the reason.

    Raises:
        MismatchError: If the artifact is not fit for the use that is made of it there.
        PlaceError: If the place is taken, or cannot be written.
    """
    place = Path(output)
    if export.is_file:
        check_file_free(place, inputs=[source], is_ours=lambda _: False)
    if not allow_unfit:
        require_fit(source, export)
    artifact = load_artifact(source)
    if not export.is_file:
        with new_directory(place) as directory:
            return export.write(artifact, directory)
    with workspace(place) as directory:
        file = directory / place.name
        left = export.write(artifact, file)
        if place.exists():
            raise PlaceError(f"{place} has appeared meanwhile; choose another place")
        file.rename(place)
        return left


def require_fit(source: str | Path, export: Export) -> None:
    """Refuse an artifact that has lost what an export is used for.

    Args:
        source: The artifact's directory.
        export: The format.

    Raises:
        MismatchError: If it has, or nobody knows whether it has.
    """
    (use,) = [u for u in judge_uses(read_header(source)) if u.name == export.use]
    if not use.fit:
        about = f" ({use.factor})" if use.factor else ""
        known = "is not fit" if use.fit is False else "is not known to be fit"
        raise MismatchError(
            f"{source} {known} for {export.name}, which needs the "
            f"{export.use.replace('_', ' ')}: {use.reason}{about}; --allow-unfit "
            "writes it nevertheless"
        )
