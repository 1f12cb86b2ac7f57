"""Switching refusals of the reference readers and writer off, one after another."""

import ast
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from reader_json import Refused


class Demands:
    """Stands in for ``demand``: notes where it refuses, and leaves one place out."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.skipped: int | None = None

    def __call__(self, rule: object, what: str) -> None:
        frame = sys._getframe(1)
        place = hash((frame.f_code.co_filename, frame.f_lineno))
        if not rule and place != self.skipped:
            self.last = place
            raise Refused(what)


def unnoticed(
    cases: Iterable[str],
    read: Callable[[str], object],
    modules: Iterable[ModuleType],
    judged: Iterable[ModuleType],
    patch: pytest.MonkeyPatch,
) -> set[str]:
    """Tell which refusals could be left out without a case passing.

    Args:
        cases: Names of what must be refused.
        read: Reads one.
        modules: All that ``demand``.
        judged: Those whose refusals are switched off.
        patch: Puts ``Demands`` in place.

    Returns:
        What those refusals say, as it is written.
    """
    demands = Demands()
    for module in modules:
        patch.setattr(module, "demand", demands)
    refused: dict[int | None, list[str]] = {}
    for name in cases:
        demands.last = None
        assert _refuses(read, name), name
        refused.setdefault(demands.last, []).append(name)
    found = set()
    for place, what in _by_place(judged).items():
        demands.skipped = place
        if all(_refuses(read, name) for name in refused.get(place, ())):
            found.add(what)
    return found


def _refuses(read: Callable[[str], object], name: str) -> bool:
    try:
        with np.errstate(all="ignore"):
            read(name)
    except Refused:
        return True
    except Exception:  # it was let through, and then made no sense
        return False
    return False


def _by_place(modules: Iterable[ModuleType]) -> dict[int, str]:
    """What every refusal says, by its place."""
    files = [str(module.__file__) for module in modules]
    return {
        hash((file, call.lineno)): ast.unparse(call.args[1])
        for file in files
        for call in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "demand"
    }
