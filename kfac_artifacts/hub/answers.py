"""What the Hub answers, checked: whoever stands in between may have changed it."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import GitRefs, ModelInfo, RepoFile, RepoFolder

from kfac_artifacts.format import FileInfo
from kfac_artifacts.hub.address import COMMIT
from kfac_artifacts.hub.causes import GarbledAnswerError
from kfac_artifacts.hub.words import plain

Value = TypeVar("Value", int, str)
OID = COMMIT
SHA256 = re.compile(r"[0-9a-f]{64}")
ETAG = re.compile(r'(W/)?"?[A-Za-z0-9][A-Za-z0-9._+=:~-]{0,199}"?')


@dataclass(frozen=True)
class ClassifierHead:
    """Where a branch is.

    Attributes:
        commit: Its latest commit.
        private: Whether the repository is private.
    """

    commit: str
    private: bool


@dataclass(frozen=True)
class Entry:
    """A file as the Hub lists it.

    Attributes:
        size: Size in bytes.
        oid: Hash by which git knows it.
        sha256: Hash of the content of a large file, None for one that git holds itself.
    """

    size: int
    oid: str
    sha256: str | None = None

    def is_of(self, content: bytes) -> bool:
        """Whether this describes a content."""
        if self.size != len(content):
            return False
        if self.sha256 is not None:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        return described_by(self.oid, content)

    def is_of_file(self, file: Path, info: FileInfo) -> bool:
        """Whether this describes a file whose size and hash are known."""
        if self.sha256 is not None:
            return (self.size, self.sha256) == (info.size, info.sha256)
        return self.size == info.size and self.is_of(file.read_bytes())


def head_of(info: ModelInfo) -> ClassifierHead:
    """Check what is said about a repository."""
    commit, private = info.sha, info.private
    return ClassifierHead(_of_pattern(COMMIT, commit, "commit"), _bool(private))


def entries_of(tree: Iterable[RepoFile | RepoFolder]) -> dict[str, Entry]:
    """Check a listing; give what it says about files, by path."""
    return {
        _of_type(str, file.path): _entry(file)
        for file in tree
        if isinstance(file, RepoFile)
    }


def refs_of(refs: GitRefs) -> tuple[list[str], dict[str, str]]:
    """Check the names of branches, and of tags with the commits they are at."""
    tags = {
        _of_type(str, ref.name): _of_pattern(COMMIT, ref.target_commit, "tag")
        for ref in refs.tags
    }
    return [_of_type(str, ref.name) for ref in refs.branches], tags


def described_by(oid: str, content: bytes) -> bool:
    """Whether a hash is that of a content: as git, or as other Hubs reckon it."""
    blob = b"blob %d\0%s" % (len(content), content)
    hashes = [hashlib.sha1(t, usedforsecurity=False) for t in (blob, content)]
    hashes += [hashlib.sha256(text) for text in (blob, content)]
    return oid in {found.hexdigest() for found in hashes}


def commit_of(oid: object) -> str:
    """Check the name of a commit."""
    return _of_pattern(COMMIT, oid, "commit")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse what the client would make names of files of.

    Args:
        headers: Names and values of the headers that tell about a file.

    Raises:
        GarbledAnswerError: If one of them could lead out of the cache.
    """
    patterns = {"etag": ETAG, "x-linked-etag": ETAG, "x-repo-commit": COMMIT}
    for name, value in headers:
        pattern = patterns.get(name.lower())
        if pattern is not None:
            _of_pattern(pattern, value, name)


def _entry(file: RepoFile) -> Entry:
    size = _of_type(int, file.size)
    if size < 0:
        raise GarbledAnswerError(f"a size of {size} bytes")
    oid = _of_pattern(OID, file.blob_id, "oid")
    if file.lfs is None:
        return Entry(size, oid)
    return Entry(size, oid, _of_pattern(SHA256, file.lfs.sha256, "sha256"))


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise GarbledAnswerError(f"{plain(repr(value))} where true or false is due")
    return value


def _of_type(kind: type[Value], value: object) -> Value:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise GarbledAnswerError(f"{plain(repr(value))} where {kind.__name__} is due")
    return value


def _of_pattern(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise GarbledAnswerError(f"{plain(repr(value))} where a {what} is due")
    return value
