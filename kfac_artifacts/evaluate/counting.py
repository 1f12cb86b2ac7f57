"""What is counted of a task, and who remembers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from typing_extensions import override

Vector: TypeAlias = Literal["none", "own", "merged"]
"""Along what a network is moved: not at all, along the task's own task vector, or along
what all are merged to."""


@dataclass(frozen=True)
class Counted:
    """Whose right answers are counted, and where.

    Attributes:
        task: Place of the task among those that are evaluated.
        validation: Whether on what α is chosen on, and not on what is reported.
        mode: ``linear`` or ``plain``.
        vector: Along what the network is moved.
    """

    task: int
    validation: bool
    mode: str
    vector: Vector


class Counts(Protocol):
    """Remembers right answers, by the factor of the task vector."""

    def find(self, counted: Counted) -> Mapping[float, int]:
        """Tell how many answers were right, at every factor that is known."""

    def keep(self, counted: Counted, right: Mapping[float, int]) -> None:
        """Remember how many answers were right, at some more factors."""


class NoCounts(Counts):
    """Remembers nothing."""

    @override
    def find(self, counted: Counted) -> Mapping[float, int]:
        return {}

    @override
    def keep(self, counted: Counted, right: Mapping[float, int]) -> None:
        pass
