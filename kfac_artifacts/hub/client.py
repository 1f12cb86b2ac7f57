"""The requests about one repository: each is retried, and its answer is checked."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from logging import getLogger
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from kfac_artifacts.errors import RegistryError
from kfac_artifacts.hub.address import COMMIT, DEFAULT_BRANCH, HubAddress
from kfac_artifacts.hub.answers import (
    ClassifierHead,
    Entry,
    commit_of,
    entries_of,
    head_of,
    refs_of,
)
from kfac_artifacts.hub.cache import Cache
from kfac_artifacts.hub.causes import (
    GarbledAnswerError,
)
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.patience import Patience

logger = getLogger(__name__)
ANSWER_SECONDS = 30.0
LONGEST_WAIT = 60.0
LONG = 10**8
"""Bytes whose transfer takes long enough to tell of it."""
AT_ONCE = 4
"""Files that are downloaded at the same time."""


class Client(Patience):
    """What is asked of a Hub about the repository of an address.

    Attributes:
        hub: The Hub.
        address: The address.
        cache: Its cache of downloads.
    """

    def __init__(self, hub: Hub, address: HubAddress) -> None:
        super().__init__(hub)
        self.address = address
        validate_repo_id(address.repo)
        self.cache = Cache(hub.cache, address.repo)

    def head(self, revision: str | None) -> ClassifierHead:
        """Where a branch, tag or commit is; None for the default branch."""
        return self.ask(
            lambda: head_of(
                self.hub.api.model_info(
                    self.address.repo, revision=revision, timeout=ANSWER_SECONDS
                )
            )
        )

    def head_noted(self, revision: str | None) -> str:
        """Where a branch, tag or commit is; the cache takes note of it."""
        commit = self.head(revision).commit
        if revision is None or not COMMIT.fullmatch(revision):
            self.cache.remember(revision or DEFAULT_BRANCH, commit)
        return commit

    def cached(self, path: str) -> tuple[str, Path] | None:
        """A file as it was when the Hub answered last: its commit, and where it is."""
        revision = self.address.revision or DEFAULT_BRANCH
        known = COMMIT.fullmatch(revision) is not None
        commit = revision if known else self.cache.remembered(revision)
        file = None if commit is None else self.cache.file(path, commit)
        return None if commit is None or file is None else (commit, file)

    def refs(self) -> tuple[list[str], dict[str, str]]:
        """The branches, and the tags with their commits."""
        return self.ask(lambda: refs_of(self.hub.api.list_repo_refs(self.address.repo)))

    def files(
        self, commit: str, folder: str = "", *, recursive: bool = False
    ) -> dict[str, Entry]:
        """The files in a folder of a commit, by path; none if there is no folder."""
        try:
            return self.ask(
                lambda: entries_of(
                    self.hub.api.list_repo_tree(
                        self.address.repo,
                        folder or None,
                        revision=commit,
                        recursive=recursive,
                    )
                )
            )
        except RemoteEntryNotFoundError:
            return {}

    def download(self, files: Mapping[str, Entry], commit: str) -> None:
        """Bring files into the cache, and compare their sizes with the listing."""

        def one(path: str) -> None:
            self.ask(lambda: self._fetch(path, commit, files[path]))
            logger.info("%s is here", path)

        def every() -> None:
            _note("downloading", sum(entry.size for entry in files.values()))
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, files))

        self.hub.without_xet_if_missing(every)

    def described(self, paths: Sequence[str], commit: str) -> dict[str, Entry]:
        """Those of some files that a commit has, by path; asked for by name."""
        return self.ask(
            lambda: entries_of(
                self.hub.api.get_paths_info(
                    self.address.repo, list(paths), revision=commit
                )
            )
        )

    def read(self, path: str, commit: str, entry: Entry) -> bytes:
        """Download a small file; give the content that the listing describes."""

        def once() -> bytes:
            content = self._fetch(path, commit, entry).read_bytes()
            if not entry.is_of(content):
                self.cache.forget(path, commit)
                raise GarbledAnswerError(f"{path} was altered on the way")
            return content

        return self.hub.without_xet_if_missing(lambda: self.ask(once))

    def create_repo(self, *, private: bool | None) -> None:
        """Make the repository, unless it is there; None: as the owner has it set up."""
        self.ask(
            lambda: self.hub.api.create_repo(
                self.address.repo, private=private, exist_ok=True
            )
        )

    def create_branch(self, branch: str) -> None:
        """Make a branch, unless it is there."""

        def once() -> None:
            api, repo = self.hub.api, self.address.repo
            api.create_branch(repo, branch=branch, exist_ok=True)
            try:
                api.model_info(repo, revision=branch, timeout=ANSWER_SECONDS)
            except RevisionNotFoundError:
                raise GarbledAnswerError(f"no branch {branch} was made") from None

        self.ask(once)

    def tag(self, name: str, commit: str, *, only_here: bool) -> None:
        """Tag a commit, and look whether it is tagged.

        Args:
            name: The tag.
            commit: The commit.
            only_here: Whether it may not be at another commit already.
        """

        def once() -> None:
            api, repo = self.hub.api, self.address.repo
            if self._is_tagged(name, commit, only_here=only_here):
                return
            api.create_tag(repo, tag=name, revision=commit, exist_ok=not only_here)
            if not self._is_tagged(name, commit, only_here=only_here):
                raise GarbledAnswerError(f"the tag {name} was not set")

        self.ask(once)

    def check_tag(self, name: str, commit: str) -> None:
        """Refuse a tag that is at another commit."""
        self.ask(lambda: self._is_tagged(name, commit, only_here=True))

    def commit(
        self,
        operations: Callable[[], Sequence[CommitOperationAdd | CommitOperationDelete]],
        message: str,
        parent: str | None,
    ) -> str:
        """Commit to the address' branch.

        Args:
            operations: Makes the operations; the client changes those that it is given.
            message: What the commit says.
            parent: The commit that it must follow, or None for any.

        Returns:
            The new commit; the old one if nothing differs from it.
        """

        def once() -> str:
            wanted = operations()
            _note("uploading", sum(map(_size_of, wanted)))
            done = self.hub.api.create_commit(
                self.address.repo,
                wanted,
                commit_message=message,
                revision=self.address.revision,
                parent_commit=parent,
            )
            return commit_of(done.oid)

        return self.hub.without_xet_if_missing(lambda: self.ask(once))

    def at(self, commit: str) -> HubAddress:
        """The address, pinned to a commit."""
        return replace(self.address, revision=commit)

    def _is_tagged(self, name: str, commit: str, *, only_here: bool) -> bool:
        target = refs_of(self.hub.api.list_repo_refs(self.address.repo))[1].get(name)
        if only_here and target not in (None, commit):
            raise RegistryError(
                f"{self.address.repo} has a tag {name!r} already, at {target}; choose "
                "another --tag"
            )
        return target is not None

    def _fetch(self, path: str, commit: str, entry: Entry) -> Path:
        self.hub.api.hf_hub_download(
            self.address.repo, path, revision=commit, cache_dir=self.cache.root
        )
        file = self.cache.file(path, commit)
        if file is None or file.stat().st_size != entry.size:
            self.cache.forget(path, commit)
            raise GarbledAnswerError(f"{path} is not the file that was listed")
        return file


def _size_of(operation: CommitOperationAdd | CommitOperationDelete) -> int:
    if isinstance(operation, CommitOperationAdd):
        return operation.upload_info.size
    return 0


def _note(what: str, size: int) -> None:
    """Tell at once of what takes long."""
    logger.info("%s %.1f MB", what, size / 1e6, extra={"at_once": size > LONG})
