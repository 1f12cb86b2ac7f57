"""Pulling an artifact from the Hub: pinned by commit, every byte verified."""

import shutil
from collections.abc import Mapping
from dataclasses import replace as with_changes
from pathlib import Path

from huggingface_hub import RepoFile, get_cached_repo_tree
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils.sha import git_hash

from kfac_artifacts.errors import FormatError, RegistryError
from kfac_artifacts.format.files import MAX_JSON_BYTES, sha256_file
from kfac_artifacts.format.manifest import MANIFEST, FileInfo
from kfac_artifacts.hub.address import COMMIT, HubAddress, contradicts, tag_of
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.content import (
    CARD,
    DamagedFilesError,
    Origin,
    read_manifest_only,
    receive,
)
from kfac_artifacts.hub.explain import is_unreachable, some
from kfac_artifacts.hub.result import Pulled
from kfac_artifacts.places import check_free

MAX_CARD_BYTES = 2**20
ANSWER_SECONDS = 30.0


def pull_from_hub(
    address: HubAddress, directory: Path, *, replace: bool, hub: Hub
) -> Pulled:
    """Download an artifact, verify it, and let it appear whole or not at all.

    Args:
        address: What to pull.
        directory: Where it shall be.
        replace: Whether an artifact that is already there may be replaced.
        hub: The Hub.

    Returns:
        What was done.
    """
    check_free(directory, replace=replace)
    with hub.explained(address):
        commit, stale = _resolve(address, hub)
        pinned = with_changes(address, revision=commit)
        sizes = _listing(pinned, hub)
        source = _fetch_manifest(pinned, hub)
        digest = sha256_file(source / MANIFEST)
        _check_tag(address, digest)
        files = read_manifest_only(source)
        _check_sizes(pinned, files, sizes)
        _check_space(files, [directory.absolute().parent, hub.cache])
        card = [CARD] if 0 < sizes.get(CARD, 0) <= MAX_CARD_BYTES else []
        names = [MANIFEST, *files, *card]
        origin = Origin(str(address), str(pinned), digest)
        source = _fetch(pinned, names, hub)
        try:
            size = receive(source, directory, origin, replace=replace)
        except DamagedFilesError as error:
            # The client compares sizes only: the cache or the transfer was at fault.
            _forget(source, error.names)
            source = _fetch(pinned, names, hub)
            size = receive(source, directory, origin, replace=replace)
    return Pulled(directory, str(pinned), digest, size, stale)


def _resolve(address: HubAddress, hub: Hub) -> tuple[str, bool]:
    """Find the commit of a revision; tell whether only the cache could say it."""
    if address.revision is not None and COMMIT.fullmatch(address.revision):
        return address.revision, False
    try:
        info = hub.retrying(
            lambda: hub.api.model_info(
                address.repo, revision=address.revision, timeout=ANSWER_SECONDS
            )
        )
    except RevisionNotFoundError as error:
        raise _no_such_revision(address, hub) from error
    except Exception as error:
        commit = _cached_commit(address, hub) if is_unreachable(error) else None
        if commit is None:
            raise
        return commit, True
    # This notes the commit in the cache, for a day when the Hub does not answer. It
    # cannot do the above, because it does not tell when it answers from the cache.
    hub.api.resolve_revision(
        address.repo, revision=address.revision, cache_dir=hub.cache
    )
    return str(info.sha), False


def _cached_commit(address: HubAddress, hub: Hub) -> str | None:
    try:
        found = hub.api.resolve_revision(
            address.repo,
            revision=address.revision,
            cache_dir=hub.cache,
            local_files_only=True,
        )
    except RevisionResolutionError:
        return None
    return str(found.resolved)


def _no_such_revision(address: HubAddress, hub: Hub) -> RegistryError:
    refs = hub.retrying(lambda: hub.api.list_repo_refs(address.repo))
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return RegistryError(
        f"{address.repo} has no branch, tag or commit {address.revision!r}; it has "
        f"{some(names)}"
    )


def _listing(pinned: HubAddress, hub: Hub) -> dict[str, int]:
    """Sizes in bytes of the files in the artifact's folder, before any download."""
    try:
        entries = list(
            get_cached_repo_tree(
                pinned.repo, revision=pinned.revision, cache_dir=hub.cache
            )
        )
    except CachedRepoTreeNotFoundError:
        entries = hub.retrying(lambda: _files(pinned, hub))
    sizes = {entry.path: entry.size for entry in entries}
    here = {
        Path(path).name: size for path, size in sizes.items() if _is_in(path, pinned)
    }
    if here.get(MANIFEST, 0) > MAX_JSON_BYTES:
        raise RegistryError(f"{pinned}: {MANIFEST} is too large to be a manifest")
    if MANIFEST not in here:
        folders = [p.removesuffix(MANIFEST) for p in sizes if Path(p).name == MANIFEST]
        places = [str(HubAddress(pinned.repo, f.rstrip("/"))) for f in folders]
        advice = (
            f"there are artifacts at {some(places)}" if places else "look elsewhere"
        )
        raise RegistryError(
            f"{pinned} holds no KFAC artifact (no {MANIFEST}; there is "
            f"{some(list(here))}); {advice}"
        )
    return here


def _files(pinned: HubAddress, hub: Hub) -> list[RepoFile]:
    tree = hub.api.list_repo_tree(pinned.repo, revision=pinned.revision, recursive=True)
    return [entry for entry in tree if isinstance(entry, RepoFile)]


def _is_in(path: str, pinned: HubAddress) -> bool:
    return path == pinned.file(Path(path).name)


def _fetch(pinned: HubAddress, names: list[str], hub: Hub) -> Path:
    """Bring files into the cache; give the folder in which they are."""

    def download() -> str:
        return hub.api.snapshot_download(
            pinned.repo,
            revision=pinned.revision,
            cache_dir=hub.cache,
            allow_patterns=[pinned.file(name) for name in names],
        )

    root = hub.without_xet_if_missing(lambda: hub.retrying(download))
    folder = Path(root) / pinned.path
    if not (folder / MANIFEST).is_file():
        raise RegistryError(f"{pinned} was not downloaded; try again")
    return folder


def _fetch_manifest(pinned: HubAddress, hub: Hub) -> Path:
    """Bring the manifest, twice if the cache holds it under the hash of other bytes."""
    source = _fetch(pinned, [MANIFEST], hub)
    content = (source / MANIFEST).read_bytes()
    name = (source / MANIFEST).resolve().name
    if COMMIT.fullmatch(name) and name not in (
        git_hash(content),
        sha256_file(source / MANIFEST),
    ):
        _forget(source, [MANIFEST])
        source = _fetch(pinned, [MANIFEST], hub)
    return source


def _forget(folder: Path, names: list[str]) -> None:
    """Remove files from the cache, so that they are downloaded again."""
    for name in names:
        pointer = folder / name
        pointer.resolve().unlink(missing_ok=True)
        pointer.unlink(missing_ok=True)


def _check_tag(address: HubAddress, digest: str) -> None:
    if contradicts(address.revision, digest):
        raise RegistryError(
            f"the artifact at {address} is {tag_of(digest)}: the tag was moved, or "
            "is of another folder; pull it by branch or commit if that will do"
        )


def _check_sizes(
    pinned: HubAddress, files: Mapping[str, FileInfo], sizes: Mapping[str, int]
) -> None:
    for name, info in files.items():
        if sizes.get(name) != info.size:
            found = f"{sizes[name]} bytes" if name in sizes else "no such file"
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
