"""How far slow work is, told to whoever wants to show it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

Advance: TypeAlias = Callable[[int], object]
"""Told how many more units are done."""
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a bar for a stage and a number of units; gives what moves it."""


def unseen(_: object) -> None:
    """Show nothing of what is told."""


def silent(stage: str, total: int) -> AbstractContextManager[Advance]:
    """Open no bar."""
    return nullcontext(unseen)
