"""The state of a small Hub: repositories, commits, large files, tokens and faults."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from threading import RLock
from typing import Literal

Role = Literal["read", "write"]
TOKENS: dict[str, tuple[str, Role]] = {
    "hf_owner": ("owner", "write"),
    "hf_reader": ("owner", "read"),
    "hf_stranger": ("stranger", "write"),
}


class HubError(Exception):
    """An answer with an error status, as the Hub words it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def git(self) -> str:
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{self.sha256}",
        )
        return "\n".join([*lines, f"size {len(self.content)}", ""]).encode()

    @property
    def oid(self) -> str:
        """What the client compares to see whether a file has changed."""
        return self.sha256 if self.lfs else self.git


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    sha_length: int = 40

    def resolve(self, revision: str) -> str:
        known = {**self.branches, **self.tags, **{c: c for c in self.commits}}
        if revision not in known:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return known[revision]

    @property
    def head(self) -> dict[str, Blob]:
        return self.commits[self.branches["main"]]

    def commit(self, files: dict[str, Blob], branch: str = "main") -> str:
        text = "".join(f"{p} {b.git}\n" for p, b in sorted(files.items()))
        text = f"{len(self.log)}\n{text}"
        sha = hashlib.sha256(text.encode()).hexdigest()[: self.sha_length]
        self.commits[sha] = files
        self.branches[branch] = sha
        self.log.append(sha)
        return sha

    def put(self, path: str, content: bytes, *, lfs: bool = False) -> str:
        """Change a file behind everybody's back."""
        return self.commit({**self.head, path: Blob(content, lfs)})


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return b"%s%c%s" % (content[:middle], content[middle] ^ 1, content[middle + 1 :])


FaultKind = Literal[
    "status",  # an error, as the Hub words it
    "drop",  # the connection breaks before anything is done
    "lose",  # it breaks after it is done
    "truncate",  # it breaks in the middle of the answer
    "short",  # half the answer, with a length that is right for it
    "flip",  # one bit is wrong
    "instead",  # somebody else answers: the request does not arrive
    "answer",  # the request arrives, but the answer is another one
    "meanwhile",  # somebody else does something before the request is looked at
    "after",  # or once it is done, and not yet answered
]


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD /path`` matches."""

    pattern: str
    kind: FaultKind
    times: int = 10**9
    status: int = 503
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Callable[[bytes], bytes] = b""
    action: Callable[[], object] = lambda: None

    def changed(self, content: bytes) -> bytes:
        """What is answered in the place of a content."""
        if self.kind in ("answer", "instead"):
            return self.body if isinstance(self.body, bytes) else self.body(content)
        if self.kind == "flip":
            return flipped(content)
        return content[: len(content) // 2] if self.kind == "short" else content


@dataclass
class Store:
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    verifies: bool = True
    checks_parent: bool = True
    claims_xet: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    lock: RLock = field(default_factory=RLock)
    numbers: Iterator[int] = field(default_factory=count)

    def fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    def create(self, name: str, *, private: bool = False) -> Repo:
        self.repos[name] = repo = Repo(private=private)
        repo.commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n", lfs=False)})
        return repo

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, request)) for request in self.requests)
