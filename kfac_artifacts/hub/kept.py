"""What the cache holds of artifacts: only what is there as a whole is used."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import MAX_JSON_BYTES, FileInfo
from kfac_artifacts.hub.address import HubAddress
from kfac_artifacts.hub.answers import Entry, described_by
from kfac_artifacts.hub.artifact_files import digest_in
from kfac_artifacts.hub.client import Client
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.kinds import ARTIFACT, KINDS, Kind


@dataclass(frozen=True)
class Found:
    """What is to be pulled.

    Attributes:
        pinned: The address with the commit.
        manifest: The manifest, compared with the hash by which git knows it.
        kind: What it is.
        files: The tensor files, from the manifest.
        listed: The files of the folder; None if all of them are in the cache.
        stale: Whether only the cache could say which commit.
    """

    pinned: HubAddress
    manifest: bytes
    kind: Kind
    files: Mapping[str, FileInfo]
    listed: Mapping[str, Entry] | None = None
    stale: bool = False

    @property
    def commit(self) -> str:
        """The commit."""
        return self.pinned.revision or ""


def in_cache(client: Client, commit: str) -> Found | None:
    """What was pulled of a commit before, if all of it is there and looks whole.

    Args:
        client: Asks for what is at its address.
        commit: The commit.

    Returns:
        What was found, None if something is missing or damaged.

    Raises:
        FormatError: If a manifest is there that is no valid one.
    """
    for kind in KINDS:
        found = _of_kind(kind, client, commit)
        if found is not None:
            return found
    return None


def kept_at(address: HubAddress, digest: str, hub: Hub) -> HubAddress | None:
    """Look for an artifact at any commit of its folder that the cache knows.

    Args:
        address: Where it is.
        digest: Its digest, which says that it is the same whatever the commit.
        hub: The Hub, which is not asked.

    Returns:
        Its address at a commit of which all of it is there; None if there is none.
    """
    client = Client(hub, address)
    for commit in client.cache.commits_with(address.file(ARTIFACT.manifest)):
        with suppress(FormatError):  # of another artifact, which was refused before
            found = in_cache(client, commit)
            if found and digest_in(found.manifest, Path(commit)) == digest:
                return found.pinned
    return None


def _of_kind(kind: Kind, client: Client, commit: str) -> Found | None:
    cache, pinned = client.cache, client.at(commit)
    file = cache.file(pinned.file(kind.manifest), commit)
    if file is None or file.stat().st_size > MAX_JSON_BYTES:
        return None
    manifest = file.read_bytes()
    if not described_by(file.resolve().name, manifest):
        return None  # damaged, or the cache does not tell
    files = kind.files_of(manifest, file)
    for name, info in files.items():
        cached = cache.file(pinned.file(name), commit)
        if cached is None or cached.stat().st_size != info.size:
            return None
    return Found(pinned, manifest, kind, files)
