"""Publishing an artifact, on the Hub or in a plain directory."""

import logging
from pathlib import Path

from kfac_artifacts.artifact import disclosure
from kfac_artifacts.errors import RegistryError
from kfac_artifacts.hub.address import HubAddress, looks_like_hub, parse
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.directory import push_to_directory
from kfac_artifacts.hub.kinds import TASK_VECTOR, kind_at
from kfac_artifacts.hub.package import Package, Parcel
from kfac_artifacts.hub.result import Pushed
from kfac_artifacts.hub.upload import push_to_hub
from kfac_artifacts.hub.vector_package import VectorPackage

logger = logging.getLogger(__name__)


def push(
    directory: str | Path,
    destination: str | Path,
    *,
    private: bool = False,
    license: str | None = None,
    tag: str | None = None,
    replace: bool = False,
    hub: Hub | None = None,
) -> Pushed:
    """Publish an artifact, or a task vector, after checking it.

    What it gives away of its data is in its card (``spec/privacy.md``); of exact counts
    and few examples a warning is logged.

    Args:
        directory: The artifact.
        destination: ``hf://org/name[/path][@branch]``, or a plain directory: the place
            in an embedded registry where the artifact itself goes.
        private: Whether to make a new repository on the Hub private.
        license: Licence identifier for the model card, such as ``cc-by-4.0``.
        tag: Tag of the commit on the Hub; by default named by the artifact's digest.
        replace: Whether an artifact of another base model or of other tasks that stands
            in a plain directory may be replaced.
        hub: The Hub; by default the one of the environment.

    Returns:
        What was done, with a pinned address that :func:`pull` takes.

    Raises:
        RegistryError: If the destination refuses it or cannot be reached.
        PlaceError: If a directory is taken or cannot be written.
    """
    address = parse(str(destination))
    if isinstance(address, HubAddress):
        if replace:
            raise RegistryError(f"{address} keeps what was there: nothing to --force")
        package = _parcel(directory, license)
        hub = hub or Hub()
        return push_to_hub(package, address, private=private, tag=tag, hub=hub)
    if private or tag:
        raise RegistryError(f"{address} is a directory: it cannot be private or tagged")
    if isinstance(destination, str) and (meant := looks_like_hub(destination)):
        logger.warning(
            "%s is written as a local directory; for the Hub write %s",
            destination,
            meant,
        )
    package = _parcel(directory, license)
    return push_to_directory(package, address, replace=replace)


def _parcel(directory: str | Path, license: str | None) -> Parcel:
    if kind_at(Path(directory)) is TASK_VECTOR:
        return VectorPackage.of(Path(directory), license)
    return checked_package(directory, license)


def checked_package(directory: str | Path, license: str | None) -> Package:
    """Check an artifact before it is published, and warn of what it gives away."""
    package = Package.of(Path(directory), license)
    for sentence in disclosure(package.artifact).warnings:
        logger.warning("%s", sentence)
    return package
