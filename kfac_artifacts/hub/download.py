"""Pulling an artifact from the Hub: pinned by commit, every byte verified."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

from kfac_artifacts.errors import (
    AccessError,
    ConnectionFailed,
    FormatError,
    RegistryError,
    listed,
)
from kfac_artifacts.format import MANIFEST, MAX_JSON_BYTES, FileInfo
from kfac_artifacts.hub.address import (
    COMMIT,
    DEFAULT_BRANCH,
    HubAddress,
    contradicts,
    tag_of,
)
from kfac_artifacts.hub.answers import Entry
from kfac_artifacts.hub.artifact_files import (
    COMPANIONS,
    MAX_COMPANION_BYTES,
    DamagedFilesError,
    Origin,
    Texts,
    copy_files,
    digest_in,
    link_files,
    publish,
)
from kfac_artifacts.hub.causes import is_unreachable
from kfac_artifacts.hub.client import Client
from kfac_artifacts.hub.client_errors import explain
from kfac_artifacts.hub.connection import Hub, xet_switched_off
from kfac_artifacts.hub.kept import Found, in_cache
from kfac_artifacts.hub.kinds import ARTIFACT, kind_among
from kfac_artifacts.hub.result import Pulled
from kfac_artifacts.hub.words import plain
from kfac_artifacts.places import check_free

REPAIRS = 2
"""How often files that turn out to be damaged are downloaded again."""
DOUBTED = (
    FormatError,
    RegistryError,
    RevisionNotFoundError,
    RemoteEntryNotFoundError,
)


def pull_from_hub(
    address: HubAddress,
    directory: Path,
    *,
    replace: bool,
    hub: Hub,
    links: bool = False,
) -> Pulled:
    """Download an artifact, verify it, and let it appear whole or not at all.

    Args:
        address: What to pull.
        directory: Where it goes.
        replace: Whether an artifact that is already there may be replaced.
        hub: The Hub.
        links: Whether its tensors may be links into the cache, to be read for a while.

    Returns:
        What was done.
    """
    check_free(directory, replace=replace)
    with hub.explained(address):
        pull = _Pull(address, hub)
        found = pull.find()
        filled = [] if links else [directory.absolute().parent]
        _check_space(found.files, [*filled, *([hub.cache] if found.listed else [])])
        texts = Texts(found.manifest, pull.fetch(found))
    digest = digest_in(found.manifest, Path(found.kind.manifest))
    origin = Origin(str(address), str(found.pinned), digest)

    def appear() -> int:
        source = pull.source(found)
        bring = link_files if links else copy_files
        return publish(source, texts, directory, origin, replace=replace, bring=bring)

    for _ in range(REPAIRS):
        try:
            size = appear()
            break
        except DamagedFilesError as error:
            # The client compares sizes only: the cache or the transfer was at fault.
            with hub.explained(address):
                pull.fetch_again(found, error.names)
    else:
        size = appear()
    return Pulled(directory, str(found.pinned), digest, size, found.stale)


class _Pull:
    def __init__(self, address: HubAddress, hub: Hub) -> None:
        self.address = address
        self.hub = hub
        self.client = Client(hub, address)

    def find(self) -> Found:
        """Find what is to be pulled, asking twice before it is said to be wrong.

        A second answer shows whether the first was altered on the way.

        Returns:
            What is to be pulled.
        """
        try:
            return self._look()
        except DOUBTED as error:
            if isinstance(error, AccessError | ConnectionFailed):
                raise  # which were tried again already
            return self._look()

    def fetch(self, found: Found) -> dict[str, bytes]:
        """Bring the tensor files into the cache; give what stands beside them."""
        # the tensors last: a run that is killed leaves no artifact without its card
        contents = {name: self._small(found, name) for name in COMPANIONS}
        if found.listed is not None:
            self._download(found, list(found.files), found.listed)
        return {name: c for name, c in contents.items() if c is not None}

    def fetch_again(self, found: Found, names: list[str]) -> None:
        """Replace what the cache holds under the name of other bytes."""
        for name in names:
            self.client.cache.forget(self.address.file(name), found.commit)
        listed = found.listed or self._listing(found.pinned)
        with xet_switched_off():  # it takes the hashes from a listing in the cache
            self._download(found, names, listed)

    def source(self, found: Found) -> Path:
        """The folder of the cache with the tensor files."""
        snapshot = self.client.cache.folder / "snapshots" / found.commit
        return snapshot / self.address.path

    def _small(self, found: Found, name: str) -> bytes | None:
        """The content of a file that need not be there; None without it."""
        if found.listed is None:
            file = self.client.cache.file(self.address.file(name), found.commit)
            small = file is not None and file.stat().st_size <= MAX_COMPANION_BYTES
            return file.read_bytes() if file is not None and small else None
        entry = found.listed.get(name)
        if entry is None or not 0 < entry.size <= MAX_COMPANION_BYTES:
            return None
        return self.client.read(self.address.file(name), found.commit, entry)

    def _look(self) -> Found:
        commit, reason = self._resolve()
        found = None if commit is None else in_cache(self.client, commit)
        if found is None and commit is not None and reason is None:
            try:
                found = self._on_hub(self.client.at(commit))
            except Exception as error:
                reason = error
                if not is_unreachable(error):
                    raise
        if found is None:
            told = explain(reason, self.address, self.hub.url) if reason else None
            raise ConnectionFailed(
                f"{self.address} is not in the cache {self.hub.cache}, or not all of "
                f"it, and {told}"
            ) from reason
        self._check_tag(found.manifest)
        return dataclasses.replace(found, stale=reason is not None)

    def _resolve(self) -> tuple[str | None, Exception | None]:
        """Find the commit; tell why the Hub could not say it."""
        revision = self.address.revision
        if revision is not None and COMMIT.fullmatch(revision):
            return revision, None
        noted = DEFAULT_BRANCH if revision is None else revision
        try:
            commit = self.client.head(revision).commit
        except RevisionNotFoundError as error:
            raise self._no_such_revision() from error
        except Exception as error:
            if not is_unreachable(error):
                raise
            return self.client.cache.remembered(noted), error
        self.client.cache.remember(noted, commit)
        return commit, None

    def _no_such_revision(self) -> RegistryError:
        branches, tags = self.client.refs()
        return RegistryError(
            f"{self.address.repo} has no branch, tag or commit "
            f"{self.address.revision!r}; it has {listed([*branches, *tags], 8, plain)}"
        )

    def _on_hub(self, pinned: HubAddress) -> Found:
        listed = self._listing(pinned)
        commit = pinned.revision or ""
        kind = kind_among(listed) or ARTIFACT
        path = pinned.file(kind.manifest)
        manifest = self.client.read(path, commit, listed[kind.manifest])
        files = kind.files_of(manifest, Path(path))
        _check_sizes(pinned, files, listed)
        return Found(pinned, manifest, kind, files, listed)

    def _listing(self, pinned: HubAddress) -> dict[str, Entry]:
        """The files in the artifact's folder, by name."""
        commit = pinned.revision or ""
        paths = self.client.files(commit, pinned.path)
        listed = {Path(path).name: entry for path, entry in paths.items()}
        kind = kind_among(listed)
        if kind is None:
            raise self._no_artifact(pinned, sorted(listed))
        if listed[kind.manifest].size > MAX_JSON_BYTES:
            raise RegistryError(
                f"{pinned}: {kind.manifest} is too large to be a manifest"
            )
        return listed

    def _no_artifact(self, pinned: HubAddress, names: list[str]) -> RegistryError:
        paths = self.client.files(pinned.revision or "", recursive=True)
        folders = [p.removesuffix(MANIFEST) for p in paths if Path(p).name == MANIFEST]
        places = [str(HubAddress(pinned.repo, f.rstrip("/"))) for f in folders]
        found = listed(places, 8, plain)
        advice = f"there are artifacts at {found}" if places else "look elsewhere"
        return RegistryError(
            f"{pinned} holds no KFAC artifact (no {MANIFEST}; its files: "
            f"{listed(names, 8, plain)}); {advice}"
        )

    def _download(
        self, found: Found, names: list[str], listed: Mapping[str, Entry]
    ) -> None:
        files = {self.address.file(name): listed[name] for name in names}
        self.client.download(files, found.commit)

    def _check_tag(self, manifest: bytes) -> None:
        digest = digest_in(manifest, Path("manifest"))
        if contradicts(self.address.revision, digest):
            raise RegistryError(
                f"the artifact at {self.address} is {tag_of(digest)}: the tag was "
                "moved, or is of another folder; pull it by branch or commit if that "
                "will do"
            )


def _check_sizes(
    pinned: HubAddress, files: Mapping[str, FileInfo], listed: Mapping[str, Entry]
) -> None:
    for name, info in files.items():
        size = listed[name].size if name in listed else None
        if size != info.size:
            found = "no such file" if size is None else f"{size} bytes"
            raise FormatError(
                f"{pinned.file(name)} of {pinned} is announced with {info.size} bytes, "
                f"but there is {found}; the artifact is incomplete, ask its owner"
            )


def _check_space(files: Mapping[str, FileInfo], places: list[Path]) -> None:
    need = sum(info.size for info in files.values())
    for place in places:
        there = next(p for p in (place, *place.parents) if p.exists())
        free = shutil.disk_usage(there).free
        if free < need:
            raise RegistryError(
                f"the artifact has {need} bytes, but {there} has only {free} free; "
                "make room, or choose another place (HF_HOME for the cache)"
            )
