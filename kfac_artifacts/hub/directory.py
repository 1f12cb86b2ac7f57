"""An embedded registry: a plain directory in which artifacts stand as on the Hub.

The address of an artifact is the path of its own directory; folders above it are the
user's to arrange. Its version is its tag, ``kfac-`` and the start of its digest:
what another version takes the place of stays beside it, in the directory that is
called ``PATH@kfac-...``, so that the pinned address goes on naming it.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.artifact import shared_differences
from kfac_artifacts.errors import AddressError, FormatError, PlaceError
from kfac_artifacts.format import (
    SIGNATURE,
    read_header,
    settled,
    write_durably,
)
from kfac_artifacts.hub.address import PlainAddress, tag_of
from kfac_artifacts.hub.artifact_files import (
    CARD,
    copy_files,
    digest_at,
    holds,
    read_card,
    read_picture,
    read_signature,
)
from kfac_artifacts.hub.kinds import ARTIFACT, kind_at
from kfac_artifacts.hub.package import Package, Parcel
from kfac_artifacts.hub.picture import PICTURE
from kfac_artifacts.hub.result import Pushed
from kfac_artifacts.places import check_free, new_directory, own_entries, version_place

UNREADABLE = "unreadable"
"""In place of the tag of something whose manifest is no JSON."""


@dataclass
class _Push:
    """A push into a directory, and what it finds there when its turn comes."""

    package: Parcel
    target: Path
    force: bool
    replaced: str | None = None
    card_kept: bool = False

    def is_needed(self) -> bool:
        """Whether the place may hold this, and does not yet, whole and with a card."""
        self._check_successor()
        existing = read_card(self.target)
        card = self.package.card(str(self.target), existing)
        self.card_kept = card is None
        changed = card is not None and card != existing
        own = self.package.signature
        changed = changed or own not in {None, read_signature(self.target)}
        lacking = self.package.kind is ARTIFACT and read_picture(self.target) is None
        changed = changed or (card is not None and lacking)
        return changed or not holds(self.target, self.package.digest)

    def finish(self, directory: Path) -> None:
        """Look at what there is by now, keep it, and write the card accordingly."""
        self._check_successor()
        self._keep_version()
        existing = read_card(self.target)
        card = self.package.card(str(self.target), existing)
        self.card_kept = card is None
        text = existing if card is None else card
        write_durably(directory / CARD, (text or "").encode())
        picture = self._picture()
        if picture is not None:
            write_durably(directory / PICTURE, picture)
        signature = self.package.signature
        if signature is None and self.replaced is None:  # the same artifact, or none
            signature = read_signature(self.target)
        if signature is not None:
            write_durably(directory / SIGNATURE, signature)

    def _picture(self) -> bytes | None:
        """What is there, if it is of this artifact or edited; else its own picture."""
        existing = read_picture(self.target)
        if existing is not None and self.replaced is None:
            return existing
        return self.package.picture_over(existing, shown=not self.card_kept) or existing

    def _check_successor(self) -> None:
        """Refuse to take the place of what has nothing to do with this artifact."""
        self.replaced = None
        try:
            digest = digest_at(self.target)
        except FormatError:
            digest = UNREADABLE
        if digest is None or digest == self.package.digest:
            return
        tag = tag_of(digest) if digest != UNREADABLE else UNREADABLE
        why = _unrelated(self.target, self.package)
        if why is not None and not self.force:
            raise PlaceError(
                f"{self.target} holds another artifact, {tag}: {why}; push to another "
                "place, or --force"
            )
        self.replaced = tag

    def _keep_version(self) -> None:
        """Let what is about to be replaced stay under its pinned address."""
        if self.replaced in {None, UNREADABLE}:
            return
        place = version_place(self.target, str(self.replaced))
        with suppress(FormatError):
            if tag_of(digest_at(place) or "") == self.replaced:
                return
        with new_directory(place) as directory:
            for name in own_entries(self.target):
                _link(self.target / name, directory / name)


def push_to_directory(
    package: Parcel, address: PlainAddress, *, replace: bool = False
) -> Pushed:
    """Copy an artifact into an embedded registry, whole or not at all.

    An earlier version, of the same base model and with tasks in common, gives way, and
    stays under its pinned address.

    Args:
        package: The artifact.
        address: Where it goes.
        replace: Whether an artifact of another base model or of other tasks may be
            replaced, too.

    Returns:
        What was done.

    Raises:
        AddressError: If the address is pinned.
        PlaceError: If the place is taken by something else, or cannot be written.
    """
    if address.revision is not None:
        raise AddressError(f"{address} is pinned; push to {address.directory} instead")
    push = _Push(package, address.directory, replace)
    check_free(push.target, replace=True, inputs=[package.directory])
    changed = settled(push.target, package.kind.manifest, push.is_needed)
    if changed:
        with new_directory(push.target, replace=True, before=push.finish) as temporary:
            copy_files(package.directory, temporary, package.files)
            manifest = temporary / package.kind.manifest
            manifest.write_bytes(package.manifest)  # as it was checked
            package.kind.check(temporary)
    return Pushed(
        reference=str(PlainAddress(push.target, tag_of(package.digest))),
        digest=package.digest,
        size=package.size,
        tag=tag_of(package.digest),
        changed=changed,
        card_kept=push.card_kept,
        directory=push.target,
        replaced=push.replaced,
    )


def _link(file: Path, new: Path) -> None:
    """Give a file another name; where the file system cannot, copy it."""
    try:
        os.link(file.resolve(), new)
    except OSError:
        shutil.copyfile(file, new)


def _unrelated(place: Path, package: Parcel) -> str | None:
    """Say why what stands at a place is no earlier version of something."""
    if not isinstance(package, Package) or kind_at(place) is not package.kind:
        return "of task vectors nobody can say that one is a version of another"
    try:
        there = read_header(place).provenance
    except FormatError as error:
        return f"it cannot be compared ({error})"
    new = package.artifact.provenance
    if shared_differences(new.base, there.base):
        return f"it is of another base model, {there.base.id}"
    tasks, others = (
        {source.data.id for source in sources}
        for sources in (new.sources, there.sources)
    )
    if not tasks & others:
        return f"it is of other tasks, {', '.join(sorted(others)[:3])}"
    return None
