"""Where a registry is kept: what a plain directory and the Hub have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import parse_json
from kfac_artifacts.registry.entries import CHANGE, Change, Entry
from kfac_artifacts.registry.index import INDEX, Index

if TYPE_CHECKING:  # a pull needs no torch until something is merged
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.hub import Package

LOG = "log"


class ConflictError(Exception):
    """Somebody else has changed a registry since it was looked at."""


@dataclass(frozen=True)
class Plan:
    """What one change of a registry writes and deletes.

    Attributes:
        packages: Artifacts, by the path of their folder.
        texts: Small files by path; the index last.
        gone: Folders of totals that are none any more.
        message: What is said of it.
    """

    packages: "Mapping[str, Package]"
    texts: Mapping[str, bytes]
    gone: Sequence[str]
    message: str


@dataclass(frozen=True)
class State:
    """A registry at one moment.

    Attributes:
        head: Names the moment; None in a directory, where others wait.
        index: What is in it, as its index says.
        whole: So, with the changes of the log that the index lacks.
        exists: Whether there is an index.
        card: The card of all of it.
        stale: Whether the Hub did not answer, and this is what the cache has.
    """

    head: str | None = None
    index: Index = field(default_factory=Index)
    whole: Index = field(default_factory=Index)
    exists: bool = False
    card: str | None = None
    stale: bool = False

    @property
    def behind(self) -> bool:
        """Whether the index lacks changes."""
        return self.whole.changes != self.index.changes


class Registry(ABC):
    """A place with a registry in it."""

    @abstractmethod
    def __str__(self) -> str:
        """The address that people pull from."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """Wait for those that change it from here."""

    @abstractmethod
    def state(self, *, now: bool = False) -> State:
        """Look at it.

        Args:
            now: Whether it must be as it is, and not as it was last seen.
        """

    def announce(self, wanted: Iterable[tuple[str, Entry]]) -> None:  # noqa: B027
        """Say what has to be downloaded for some artifacts, by their folders."""

    @abstractmethod
    def fetch(
        self, path: str, entry: Entry, state: State, *, anew: bool = False
    ) -> "Artifact":
        """Open an artifact of it, with every byte verified.

        Args:
            path: Its folder.
            entry: What the index says of it.
            state: The registry as it was looked at.
            anew: Whether to look at what is there, whatever a cache has.

        Raises:
            FormatError: If it is another one, or damaged.
        """

    @abstractmethod
    def read(self, path: str, state: State) -> bytes | None:
        """A small file of it; None if it is not there, or too large."""

    @abstractmethod
    def locate(self, path: str, entry: Entry, state: State) -> Path:
        """Say where an artifact that was fetched stands on this machine."""

    @abstractmethod
    def holds(self, path: str) -> list[str]:
        """Name what is in a folder of it just now; nothing if there is no folder."""

    @property
    def history(self) -> str | None:
        """Where what was deleted is still to be had, if it is, and what ends that."""
        return None

    @abstractmethod
    def put(self, plan: Plan, state: State) -> None:
        """Change it, in one step for whoever reads it.

        Raises:
            ConflictError: If it is not as it was looked at.
        """


def state_of(
    head: str | None,
    where: str,
    index: bytes | None,
    log: Mapping[str, Callable[[], bytes]],
    card: str | None,
) -> State:
    """Read what is there: the index, and changes that it does not know.

    Args:
        head: Names the moment.
        where: What is read, for errors.
        index: The content of the index, if there is one.
        log: What reads a change, by the name of its file.
        card: The card.

    Returns:
        The state.

    Raises:
        FormatError: If one of them breaks ``spec/registry.md``.
    """
    known = Index() if index is None else Index.from_bytes(index, f"{where}/{INDEX}")
    names = {f"{change.name}.json" for change in known.changes}
    changes = []
    for name in sorted(filter(_is_log, log.keys() - names)):
        file = f"{where}/{LOG}/{name}"
        change = Change.from_json(parse_json(log[name](), file), file)
        if f"{change.name}.json" != name:
            raise FormatError(f"{file} tells of another change, {change.name}")
        changes.append(change)
    whole = known.with_changes(changes)
    return State(head, known, whole, index is not None, card)


def _is_log(name: str) -> bool:
    return name.endswith(".json") and CHANGE.fullmatch(name[:-5]) is not None
