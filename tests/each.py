"""Many small cases in one test: each of its own takes longer to collect than to run."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T", str, Path)


def for_each(
    cases: Iterable[T],
) -> Callable[[Callable[[T], None]], Callable[[pytest.Subtests], None]]:
    """Make one test of what judges a case; every case that fails is named."""

    def of(judge: Callable[[T], None]) -> Callable[[pytest.Subtests], None]:
        def test(subtests: pytest.Subtests) -> None:
            for case in cases:
                with subtests.test(Path(case).name):
                    judge(case)

        test.__name__, test.__doc__ = judge.__name__, judge.__doc__
        return test

    return of
