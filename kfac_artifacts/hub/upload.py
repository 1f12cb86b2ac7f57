"""Pushing an artifact to the Hub: one commit, then a tag."""

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from kfac_artifacts.errors import (
    AddressError,
    ConnectionFailed,
    RegistryError,
)
from kfac_artifacts.format import SIGNATURE
from kfac_artifacts.hub.address import COMMIT, TAG, HubAddress, tag_of
from kfac_artifacts.hub.answers import Entry
from kfac_artifacts.hub.artifact_files import CARD, MAX_COMPANION_BYTES
from kfac_artifacts.hub.card import collection_card
from kfac_artifacts.hub.causes import is_conflict, is_unreachable
from kfac_artifacts.hub.client import Client
from kfac_artifacts.hub.client_errors import explain
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.kinds import KINDS
from kfac_artifacts.hub.package import Parcel
from kfac_artifacts.hub.picture import PICTURE
from kfac_artifacts.hub.result import Pushed
from kfac_artifacts.hub.shipment import Shipment

CONFLICTS = 100
"""How many commits of others may come first, each of which changed something else."""


def push_to_hub(
    package: Parcel, address: HubAddress, *, private: bool, tag: str | None, hub: Hub
) -> Pushed:
    """Publish an artifact in one commit, and tag that commit.

    Args:
        package: The artifact, already checked.
        address: Where it goes; its revision is a branch.
        private: Whether to make the repository private, if it is new.
        tag: Tag of the commit; None names it by the digest.
        hub: The Hub.

    Returns:
        What was done.
    """
    _check_branch(address)
    with hub.explained(address):
        upload = _Upload(package, address, tag, hub)
        upload.prepare(private=private)
        commit = upload.publish()
        name, untagged = upload.mark(commit)
    return Pushed(
        reference=str(replace(address, revision=commit)),
        digest=package.digest,
        size=package.size,
        tag=name,
        changed=upload.changed,
        card_kept=upload.card_kept,
        untagged=untagged,
    )


class _Upload:
    def __init__(
        self, package: Parcel, address: HubAddress, tag: str | None, hub: Hub
    ) -> None:
        self.package = package
        self.address = address
        self.tag = tag
        self.client = Client(hub, address)
        self.card_kept = False
        self.changed = False
        self._first: dict[str, Entry] | None = None
        self._sent = Shipment(package, address, {}, [])

    def prepare(self, *, private: bool) -> None:
        """Make sure of the repository and the branch, before anything is uploaded."""
        repo, branch = self.address.repo, self.address.revision
        if not self._exists():
            # None: as the owner has it set up
            self.client.create_repo(private=True if private else None)
        if private and not self.client.head(None).private:
            raise RegistryError(
                f"{repo} exists and is public, which pushing does not change; make it "
                f"private at {self.client.hub.url}/{repo}/settings, or leave out "
                "--private"
            )
        if branch is not None:
            self.client.create_branch(branch)
        if self.tag is not None:
            self.client.check_tag(self.tag, self._head())

    def publish(self) -> str:
        """Commit what differs from the head, as often as others come first.

        Returns:
            The commit that holds the artifact, as the Hub itself lists it.

        Raises:
            RegistryError: If others never stop.
        """
        for _ in range(CONFLICTS):
            head = self._head()
            listed = self._listed(head)
            self._check_ours(listed)
            self._sent = self._choose(head, listed)
            try:
                commit = self._commit(head)
            except Exception as error:
                # the answer may be lost and the commit stand: look before saying so
                standing = self._standing(head, error)
                if standing is not None:
                    return standing
                if not is_conflict(error):
                    raise
                time.sleep(random.uniform(0, self.client.hub.wait))  # noqa: S311
                continue
            self.changed = commit != head
            return self._verified(commit)
        raise RegistryError(
            f"somebody else pushed to {self.address.repo} at the same time, again and "
            "again; try again later"
        )

    def mark(self, commit: str) -> tuple[str | None, str | None]:
        """Tag a commit; a tag named by the digest may already be at an earlier one.

        Returns:
            The tag; or None, and why a tag that nobody asked for could not be set.
        """
        name = self.tag or tag_of(self.package.digest)
        try:
            self.client.tag(name, commit, only_here=self.tag is not None)
        except Exception as error:
            told = explain(error, self.address, self.client.hub.url)
            if told is None or self.tag is not None:
                told = RegistryError(str(error)) if told is None else told
                raise type(told)(
                    f"{self.client.at(commit)} is published, but not tagged {name!r}: "
                    f"{told}"
                ) from error
            return None, str(told)
        return name, None

    def _exists(self) -> bool:
        try:
            self.client.head(None)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return False
        return True

    def _head(self) -> str:
        return self.client.head(self.address.revision).commit

    def _listed(self, commit: str) -> dict[str, Entry]:
        """The files at the root and in the artifact's folder, by path."""
        listed: dict[str, Entry] = {}
        for folder in {"", self.address.path}:
            listed |= self.client.files(commit, folder)
        # A card that seems to be missing would be written: it is asked for by name.
        missing = {CARD, self.address.file(CARD)} - listed.keys()
        return listed | (
            self.client.described(sorted(missing), commit) if missing else {}
        )

    def _check_ours(self, listed: dict[str, Entry]) -> None:
        """Refuse to push over what somebody else pushed to this place meanwhile."""
        ours = {
            path: entry
            for path, entry in listed.items()
            if self._is_here(path) and self._is_own(Path(path).name)
        }
        if self._first is None:
            self._first = ours
        if self._first != ours:
            raise RegistryError(
                f"somebody else pushed to {self.address} at the same time: look, and "
                "push again"
            )

    def _choose(self, head: str, listed: dict[str, Entry]) -> Shipment:
        """Choose what is written and deleted."""
        address, package = self.address, self.package
        texts = {address.file(package.kind.manifest): package.manifest}
        card = self._card(address.file(CARD), head, listed)
        self.card_kept = card is None
        if card is not None:
            texts[address.file(CARD)] = card.encode()
        texts |= self._picture(head, listed)
        if CARD not in listed and address.path:
            texts[CARD] = collection_card(package.base, package.license).encode()
        new = {address.file(name) for name in package.files}
        new |= self._signature(listed, texts)
        deleted = [
            path
            for path in sorted(listed.keys() - new - texts.keys())
            if self._is_here(path)
            and (self._is_own(Path(path).name) or Path(path).name == SIGNATURE)
        ]
        return Shipment(package, address, texts, deleted)

    def _is_here(self, path: str) -> bool:
        """Whether a file is in the folder that is pushed to, and not in another one."""
        return path == self.address.file(Path(path).name)

    def _is_own(self, name: str) -> bool:
        """Whether a file is of what is pushed, or would be taken for a part of it."""
        return any(k.manifest == name or k.tensor_file.fullmatch(name) for k in KINDS)

    def _signature(
        self, listed: Mapping[str, Entry], texts: dict[str, bytes]
    ) -> set[str]:
        """Send the signature; keep one that is there if it is of this artifact."""
        path, own = self.address.file(SIGNATURE), self.package.signature
        if own is not None:
            texts[path] = own
        there = listed.get(self.address.file(self.package.kind.manifest))
        same = there is not None and there.is_of(self.package.manifest)
        return {path} if own is not None or same else set()

    def _card(self, path: str, head: str, listed: dict[str, Entry]) -> str | None:
        existing = None
        if path in listed:
            if listed[path].size > MAX_COMPANION_BYTES:
                return None  # nothing that was generated is so large
            content = self.client.read(path, head, listed[path])
            existing = content.decode("utf-8", errors="replace")
        return self.package.card(str(replace(self.address, revision=None)), existing)

    def _picture(self, head: str, listed: dict[str, Entry]) -> dict[str, bytes]:
        """Send the picture, unless one is there that is of this artifact, or edited."""
        path, existing = self.address.file(PICTURE), None
        if path in listed:
            there = listed.get(self.address.file(self.package.kind.manifest))
            same = there is not None and there.is_of(self.package.manifest)
            if same or listed[path].size > MAX_COMPANION_BYTES:
                return {}
            existing = self.client.read(path, head, listed[path])
        picture = self.package.picture_over(existing, shown=not self.card_kept)
        return {} if picture is None else {path: picture}

    def _commit(self, head: str) -> str:
        is_oid = constants.REGEX_COMMIT_OID.fullmatch(head) is not None
        return self.client.commit(
            self._sent.operations,
            f"Add {self.package.kind.name} {tag_of(self.package.digest)}",
            head if is_oid else None,
        )

    def _standing(self, head: str, error: Exception) -> str | None:
        """The head if it holds what was to be pushed, whatever was answered."""
        try:
            commit = self._head()
            stands = self._holds(commit)
        except Exception:
            raise error from None  # which says more than that looking failed too
        self.changed = commit != head
        unclear = is_unreachable(error) or is_conflict(error)
        return commit if stands and (self.changed or unclear) else None

    def _verified(self, commit: str) -> str:
        """Look for the artifact at the commit that was named, or at the head."""
        url = self.client.hub.url
        try:
            for candidate in (commit, self._head()):
                if self._holds(candidate):
                    return candidate
        except Exception as error:
            if not is_unreachable(error):
                raise
            raise ConnectionFailed(
                f"{self.client.at(commit)} was committed, but what {url} stored could "
                f"not be looked at: {explain(error, self.address, url)}"
            ) from error
        raise RegistryError(
            f"{url} did not store {self.address} as it was sent; push again"
        )

    def _holds(self, commit: str) -> bool:
        """Compare what the Hub says it stored with what was to be stored."""
        # asked in two ways, because an answer may be altered on the way
        return self._sent.is_all_in(self._listed(commit)) or self._sent.is_all_in(
            self.client.described(self._sent.paths, commit)
        )


def _check_branch(address: HubAddress) -> None:
    revision = address.revision
    if revision and (TAG.fullmatch(revision) or COMMIT.fullmatch(revision)):
        raise AddressError(
            f"{address} is pinned; push to {replace(address, revision=None)}"
        )
