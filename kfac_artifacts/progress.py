"""How far slow work has come, for whoever wants to show it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

Advance: TypeAlias = Callable[[int], object]
"""Called with the number of units just done."""
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a bar for a stage and a number of units; gives what moves it."""


def unseen(_: object) -> None:
    """Show nothing."""


def silent(stage: str, total: int) -> AbstractContextManager[Advance]:
    """Open no bar."""
    return nullcontext(unseen)
