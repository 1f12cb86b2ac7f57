"""Where an artifact is: ``hf://org/name[/path][@revision]``, or a plain directory."""

import re
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.canonical import short
from kfac_artifacts.errors import AddressError

SCHEME = "hf://"
DEFAULT_BRANCH = "main"
LIBRARY = "kfac"
"""The library that files and requests name to the Hub."""
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
TAG = re.compile(r"kfac-([0-9a-f]{12})")


@dataclass(frozen=True)
class HubAddress:
    """A folder of a Hub repository.

    Attributes:
        repo: ``org/name``.
        path: Folder in the repository, empty for its root.
        revision: Branch, tag or commit; None for the default branch.
    """

    repo: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{'/'.join(filter(None, (self.repo, self.path)))}{at}"

    def file(self, name: str) -> str:
        """Path in the repository of a file of the artifact."""
        return f"{self.path}/{name}" if self.path else name


@dataclass(frozen=True)
class PlainAddress:
    """A directory of an embedded registry: the place of the artifact itself.

    Attributes:
        directory: Where the artifact is, or goes.
        revision: ``kfac-`` and the start of the digest it must have, or None.
    """

    directory: Path
    revision: str | None = None

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{self.directory}{at}"


def parse(text: str) -> HubAddress | PlainAddress:
    """Read an address.

    Args:
        text: ``hf://org/name[/path][@revision]``, or ``DIRECTORY[@kfac-...]``.

    Returns:
        The address.

    Raises:
        AddressError: If it is neither.
    """
    if text.startswith(SCHEME):
        return _hub_address(text)
    if "://" in text or not text:
        raise AddressError(
            f"{text!r} is no place for an artifact; write hf://org/name[/path], "
            "or the path of a directory"
        )
    place, at, revision = text.rpartition("@")
    if at and TAG.fullmatch(revision):
        return PlainAddress(Path(place), revision)
    return PlainAddress(Path(text))


def resolve(text: str) -> HubAddress | PlainAddress:
    """Read an address that is looked for: ``org/name`` is on the Hub if not here.

    Args:
        text: As of :func:`parse`, or ``org/name[/path][@revision]``.

    Returns:
        The address.
    """
    address = parse(text)
    if isinstance(address, PlainAddress) and looks_like_hub(text):
        return parse(SCHEME + text)
    return address


def looks_like_hub(text: str) -> str | None:
    """Guess whether a directory that is not there may be meant to be on the Hub.

    Args:
        text: A destination as the user wrote it.

    Returns:
        The address on the Hub, if it reads like ``org/name[/path]`` and neither it nor
        its first folder exists; else None.
    """
    first = text.split("/", maxsplit=1)[0]
    if not NAME.fullmatch(first) or Path(first).exists():
        return None
    try:
        return str(_hub_address(SCHEME + text))
    except AddressError:
        return None


def tag_of(digest: str) -> str:
    """The tag of an artifact: ``kfac-`` and the first 12 digits of its digest."""
    return f"kfac-{short(digest)}"


def contradicts(revision: str | None, digest: str) -> bool:
    """Whether a revision is a tag that belongs to another digest."""
    is_tag = revision is not None and TAG.fullmatch(revision) is not None
    return is_tag and revision != tag_of(digest)


def _hub_address(text: str) -> HubAddress:
    place, at, revision = text.removeprefix(SCHEME).partition("@")
    names = place.rstrip("/").split("/")
    repo, folders = names[:2], names[2:]
    right = (
        len(repo) == 2
        and all(NAME.fullmatch(n) and "--" not in n and ".." not in n for n in repo)
        and all(FOLDER.fullmatch(folder) for folder in folders)
        and (not at or (REVISION.fullmatch(revision) and ".." not in revision))
    )
    if not right:
        raise AddressError(
            f"{text!r} is no Hub address; write hf://org/name[/path][@revision] with "
            "letters, digits, and . _ - within names"
        )
    return HubAddress("/".join(repo), "/".join(folders), revision if at else None)
