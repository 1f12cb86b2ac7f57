"""Pushing an artifact to the Hub: one commit, then a tag."""

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    ModelInfo,
    RepoFile,
    constants,
)
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from kfac_artifacts.errors import AddressError, RegistryError
from kfac_artifacts.hub.address import COMMIT, TAG, HubAddress, tag_of
from kfac_artifacts.hub.card import collection_card
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.content import CARD, TENSOR_FILE, Package
from kfac_artifacts.hub.result import Pushed

ANSWER_SECONDS = 30.0


def push_to_hub(
    package: Package, address: HubAddress, *, private: bool, tag: str | None, hub: Hub
) -> Pushed:
    """Publish an artifact in one commit, and tag that commit.

    Args:
        package: The artifact, already checked.
        address: Where it shall be; its revision is a branch.
        private: Whether the repository, if it is new, shall be private.
        tag: Tag of the commit; None names it by the digest.
        hub: The Hub.

    Returns:
        What was done.
    """
    _check_branch(address)
    upload = _Upload(package, address, tag, hub)
    with hub.explained(address):
        upload.prepare(private=private)
        commit, changed = hub.without_xet_if_missing(
            lambda: hub.retrying(upload.commit)
        )
        hub.retrying(lambda: upload.verify(commit))
        name = hub.retrying(lambda: upload.mark(commit))
    reference = str(replace(address, revision=commit))
    return Pushed(
        reference, package.digest, package.size, name, changed, upload.card_kept
    )


@dataclass
class _Upload:
    package: Package
    address: HubAddress
    tag: str | None
    hub: Hub
    card_kept: bool = False
    before: str | None = None

    def prepare(self, *, private: bool) -> None:
        """Make sure of the repository and the branch, before anything is uploaded."""
        api, repo, branch = self.hub.api, self.address.repo, self.address.revision
        if not self._exists():
            wanted = True if private else None  # None: as the owner has set it up
            self.hub.retrying(
                lambda: api.create_repo(repo, private=wanted, exist_ok=True)
            )
        if private and not self.hub.retrying(self._info).private:
            raise RegistryError(
                f"{repo} exists and is public, which pushing does not change; make it "
                f"private at {self.hub.url}/{repo}/settings, or leave out --private"
            )
        if branch is not None:
            self.hub.retrying(
                lambda: api.create_branch(repo, branch=branch, exist_ok=True)
            )
        if self.tag is not None:
            self.hub.retrying(lambda: self._check_tag(self._head()))

    def commit(self) -> tuple[str, bool]:
        """Commit what differs from the head: nothing, if an answer was lost before.

        Returns:
            The commit that holds the artifact, and whether it is a new one.
        """
        head = self._head()
        self.before = self.before or head
        listed = self._listed(head)
        is_oid = constants.REGEX_COMMIT_OID.fullmatch(head) is not None
        commit = self.hub.api.create_commit(
            self.address.repo,
            [*self._additions(head, listed), *self._deletions(listed)],
            commit_message=f"Add KFAC artifact {tag_of(self.package.digest)}",
            revision=self.address.revision,
            parent_commit=head if is_oid else None,
        )
        return str(commit.oid), commit.oid != self.before

    def verify(self, commit: str) -> None:
        """Compare what the Hub says it stored with the manifest."""
        names = {self.address.file(n): i for n, i in self.package.files.items()}
        stored = self.hub.api.get_paths_info(
            self.address.repo, list(names), revision=commit
        )
        found = {file.path: file for file in stored if isinstance(file, RepoFile)}
        for path, info in names.items():
            file = found.get(path)
            size = None if file is None else file.size
            lfs = None if file is None else file.lfs
            if size != info.size or (lfs is not None and lfs.sha256 != info.sha256):
                raise RegistryError(
                    f"{self.hub.url} did not store {path} as it was sent; push again"
                )

    def mark(self, commit: str) -> str:
        """Tag a commit; a tag named by the digest may already be at an earlier one."""
        api, repo = self.hub.api, self.address.repo
        name = self.tag or tag_of(self.package.digest)
        known = self._check_tag(commit) if self.tag else name in self._tags()
        if not known:
            api.create_tag(repo, tag=name, revision=commit, exist_ok=self.tag is None)
        return name

    def _check_tag(self, commit: str) -> bool:
        """Tell whether the tag is at a commit already; refuse one that is elsewhere."""
        target = self._tags().get(self.tag or "")
        if target not in (None, commit):
            raise RegistryError(
                f"{self.address.repo} has a tag {self.tag!r} already, at {target}; "
                "choose another --tag"
            )
        return target is not None

    def _tags(self) -> dict[str, str]:
        refs = self.hub.api.list_repo_refs(self.address.repo)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def _exists(self) -> bool:
        try:
            self.hub.retrying(self._info)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return False
        return True

    def _info(self, revision: str | None = None) -> ModelInfo:
        return self.hub.api.model_info(
            self.address.repo, revision=revision, timeout=ANSWER_SECONDS
        )

    def _head(self) -> str:
        return str(self._info(self.address.revision).sha)

    def _listed(self, head: str) -> set[str]:
        """Paths of the files at the root and in the artifact's folder."""
        paths: set[str] = set()
        for folder in {"", self.address.path}:
            try:
                tree = self.hub.api.list_repo_tree(
                    self.address.repo, folder or None, revision=head
                )
                paths |= {entry.path for entry in tree if isinstance(entry, RepoFile)}
            except RemoteEntryNotFoundError:
                continue  # a new folder
        return paths

    def _additions(self, head: str, listed: set[str]) -> list[CommitOperationAdd]:
        address, package = self.address, self.package
        additions = [
            CommitOperationAdd(address.file(name), package.directory / name)
            for name in package.files
        ]
        path = address.file(CARD)
        existing = self._read(path, head) if path in listed else None
        card = package.card(str(replace(address, revision=None)), existing)
        self.card_kept = card is None
        if card is not None:
            additions.append(CommitOperationAdd(path, card.encode()))
        if CARD not in listed and address.path:
            base = package.artifact.provenance.base
            front = collection_card(base, package.license)
            additions.append(CommitOperationAdd(CARD, front.encode()))
        return additions

    def _deletions(self, listed: set[str]) -> list[CommitOperationDelete]:
        """Tensor files of an earlier artifact in the same folder."""
        new = {self.address.file(name) for name in self.package.files}
        old = [
            path
            for path in sorted(listed - new)
            if TENSOR_FILE.fullmatch(Path(path).name)
            and path == self.address.file(Path(path).name)
        ]
        return [CommitOperationDelete(path) for path in old]

    def _read(self, path: str, commit: str) -> str:
        file = self.hub.api.hf_hub_download(
            self.address.repo, path, revision=commit, cache_dir=self.hub.cache
        )
        return Path(file).read_text(encoding="utf-8", errors="replace")


def _check_branch(address: HubAddress) -> None:
    revision = address.revision
    if revision and (TAG.fullmatch(revision) or COMMIT.fullmatch(revision)):
        raise AddressError(
            f"{address} is pinned; push to {replace(address, revision=None)}"
        )
