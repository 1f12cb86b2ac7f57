"""An embedded registry: a plain directory in which artifacts stand as on the Hub.

The address of an artifact is the path of its own directory; folders above it are the
user's to arrange. Its version is its tag, ``kfac-`` and the start of its digest:
pulling ``PATH@kfac-...`` fails if another artifact stands there by now.
"""

from pathlib import Path

from kfac_artifacts.errors import AddressError, RegistryError
from kfac_artifacts.format import check_hashes
from kfac_artifacts.format.files import new_directory, sha256_file, write_durably
from kfac_artifacts.format.manifest import MANIFEST
from kfac_artifacts.hub.address import PlainAddress, contradicts, tag_of
from kfac_artifacts.hub.content import (
    CARD,
    Origin,
    Package,
    check_target,
    copy_files,
    holds,
    read_card,
    receive,
)
from kfac_artifacts.hub.result import Pulled, Pushed


def push_to_directory(package: Package, address: PlainAddress) -> Pushed:
    """Copy an artifact into an embedded registry, whole or not at all.

    Args:
        package: The artifact.
        address: Where it shall stand.

    Returns:
        What was done.

    Raises:
        AddressError: If the address is pinned.
    """
    if address.revision is not None:
        raise AddressError(f"{address} is pinned; push to {address.directory} instead")
    target = address.directory
    check_target(target, replace=True)
    existing = read_card(target)
    card = package.card(str(target), existing)
    tag = tag_of(package.digest)
    changed = not holds(target, package.digest) or card not in (None, existing)
    if changed:
        with new_directory(target, replace=True) as temporary:
            copy_files(package.directory, temporary, package.files)
            (temporary / MANIFEST).write_bytes(package.manifest)  # as it was checked
            text = existing if card is None else card
            write_durably(temporary / CARD, (text or "").encode())
            check_hashes(temporary)
    reference = str(PlainAddress(target, tag))
    return Pushed(
        reference, package.digest, package.size, tag, changed, card_kept=card is None
    )


def pull_from_directory(
    address: PlainAddress, directory: Path, *, replace: bool
) -> Pulled:
    """Copy an artifact out of an embedded registry, and verify it.

    Args:
        address: Where it stands.
        directory: Where it shall be.
        replace: Whether an artifact that is already there may be replaced.

    Returns:
        What was done.

    Raises:
        RegistryError: If there is none, or another than the pinned one.
    """
    check_target(directory, replace=replace)
    source = address.directory
    if not (source / MANIFEST).is_file():
        raise RegistryError(
            f"there is no artifact at {source} (no {MANIFEST}); for a repository on "
            "the Hub write hf://org/name"
        )
    digest = sha256_file(source / MANIFEST)
    reference = PlainAddress(source, tag_of(digest))
    if contradicts(address.revision, digest):
        raise RegistryError(
            f"{source} holds {reference.revision} by now, not {address.revision}; pull "
            f"{reference} if that will do"
        )
    origin = Origin(str(address), str(reference), digest)
    size = receive(source, directory, origin, replace=replace)
    return Pulled(directory, str(reference), digest, size)
