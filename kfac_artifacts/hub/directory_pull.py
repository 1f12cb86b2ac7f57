"""Fetching from an embedded registry; ``directory.py`` publishes there."""

from pathlib import Path

from kfac_artifacts.errors import FormatError, RegistryError
from kfac_artifacts.format import LOOKS, MANIFEST, identity
from kfac_artifacts.hub.address import PlainAddress, contradicts, tag_of
from kfac_artifacts.hub.artifact_files import Origin, digest_in, receive
from kfac_artifacts.hub.plain_files import read_plain
from kfac_artifacts.hub.result import Pulled
from kfac_artifacts.places import check_free, recover


def pull_from_directory(
    address: PlainAddress, directory: Path, *, replace: bool
) -> Pulled:
    """Copy an artifact out of an embedded registry, and verify it.

    Args:
        address: Where it stands.
        directory: Where it goes.
        replace: Whether what this package wrote there may be replaced.

    Returns:
        What was done.

    Raises:
        FormatError: If it is damaged.
        FileNotFoundError: If the output is taken away meanwhile.
        RegistryError: If there is none, or another than the pinned one.
    """
    source = address.directory
    check_free(directory, replace=replace, inputs=[source])
    for _ in range(LOOKS):
        seen, digest = identity(source / MANIFEST), _digest(source)
        reference = PlainAddress(source, tag_of(digest))
        if contradicts(address.revision, digest):
            raise RegistryError(
                f"{source} holds {reference.revision} by now, not {address.revision}; "
                f"pull {reference} if that will do"
            )
        origin = Origin(str(address), str(reference), digest)
        try:
            size = receive(source, directory, origin, replace=replace)
        except (FormatError, FileNotFoundError):
            # missing twice is no sign of rest: it may be between two renames each time
            if seen is not None and identity(source / MANIFEST) == seen:
                raise
        else:
            return Pulled(directory, str(reference), digest, size)
    raise RegistryError(f"{source} is being replaced again and again; try again later")


def _digest(source: Path) -> str:
    """The digest of the artifact at a place."""
    for _ in range(LOOKS):
        moving = recover(source)
        try:
            return digest_in(read_plain(source / MANIFEST), source / MANIFEST)
        except OSError:
            if not moving and not recover(source):
                break
    raise RegistryError(
        f"there is no artifact at {source} (no {MANIFEST}); for a repository on "
        "the Hub write hf://org/name"
    )
