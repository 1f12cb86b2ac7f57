"""Fetching from an embedded registry; ``directory.py`` publishes there."""

from pathlib import Path

from kfac_artifacts.errors import FormatError, RegistryError
from kfac_artifacts.format import LOOKS, MANIFEST, identity
from kfac_artifacts.hub.address import PlainAddress, contradicts, tag_of
from kfac_artifacts.hub.artifact_files import Origin, digest_in, receive
from kfac_artifacts.hub.kinds import kind_at
from kfac_artifacts.hub.plain_files import read_plain
from kfac_artifacts.hub.result import Pulled
from kfac_artifacts.places import check_free, recover, version_place


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
    check_free(directory, replace=replace, inputs=[_place_of(address)])
    for _ in range(LOOKS):
        source = _place_of(address)
        manifest = source / kind_at(source).manifest
        seen, digest = identity(manifest), _digest(source)
        reference = PlainAddress(address.directory, tag_of(digest))
        if contradicts(address.revision, digest):
            if _place_of(address) != source:
                continue  # it has just been replaced
            raise RegistryError(
                f"{source} holds {reference.revision}, not {address.revision}, and no "
                f"such version is kept; pull {reference} if that will do"
            )
        origin = Origin(str(address), str(reference), digest)
        try:
            size = receive(source, directory, origin, replace=replace)
        except (FormatError, FileNotFoundError):
            # missing twice is no sign of rest: it may be between two renames each time
            if seen is not None and identity(manifest) == seen:
                raise
        else:
            return Pulled(directory, str(reference), digest, size)
    raise RegistryError(f"{address} is being replaced again and again; try again later")


def _place_of(address: PlainAddress) -> Path:
    """Where an artifact stands: a version that was replaced is beside its place."""
    place = address.directory
    if address.revision is not None:
        kept = version_place(place, address.revision)
        if (kept / kind_at(kept).manifest).is_file():
            return kept
    return place


def _digest(source: Path) -> str:
    """The digest of the artifact at a place."""
    for _ in range(LOOKS):
        moving = recover(source)
        try:
            manifest = source / kind_at(source).manifest
            return digest_in(read_plain(manifest), manifest)
        except OSError:
            if not moving and not recover(source):
                break
    raise RegistryError(
        f"there is no artifact at {source} (no {MANIFEST}); for a repository on "
        "the Hub write hf://org/name"
    )
