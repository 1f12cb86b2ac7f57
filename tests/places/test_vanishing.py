"""A place that another run moves away between two looks is asked about in peace."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.places.leftovers import turn_at
from kfac_artifacts.places.mounts import confined, filled


def _turn(place: Path) -> bool:
    with turn_at(place):
        return False


@pytest.mark.parametrize("ask", [confined, filled, _turn])
def test_whenever_it_vanishes(
    ask: Callable[[Path], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, aside = tmp_path / "place", tmp_path / "aside"
    for last in itertools.count(1):
        place.mkdir()
        left = last

        def looking(look: Callable[..., Any]) -> Callable[..., Any]:
            def looked(path: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if isinstance(path, str | os.PathLike) and os.fspath(path) == str(
                    place
                ):
                    left -= 1
                    if left == 0:
                        place.rename(aside)
                return look(path, *args, **kwargs)

            return looked

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", looking(os.stat))
            patched.setattr(os, "lstat", looking(os.lstat))
            assert ask(place) is False
        if not aside.exists():  # it has been asked about less often
            break
        aside.rmdir()
    assert last > 2
