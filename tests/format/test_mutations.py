"""Mutated artifacts: refused by name, or read right and safe to use.

``KFAC_MUTATIONS=10000 pytest -s tests/format/test_mutations.py`` tries as many, from
``KFAC_MUTATIONS_FROM`` on, and prints what became of them.
"""

import collections
import os
import shutil
import traceback
from pathlib import Path

import pytest

from tests.format.judging import judged
from tests.format.mutations import mutant

COUNT = int(os.environ.get("KFAC_MUTATIONS", "150"))
FIRST = int(os.environ.get("KFAC_MUTATIONS_FROM", "0"))


@pytest.mark.slow
@pytest.mark.timeout(600 + COUNT)
def test_no_mutant_is_anything_but_refused_or_safe(tmp_path: Path) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    for seed in range(FIRST, FIRST + COUNT):
        place = tmp_path / f"{seed}"
        place.mkdir()
        told = mutant(seed, place / "a")
        try:
            outcomes[judged(place / "a", seed)] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{told}: {error!r:.300} ({last.filename}:{last.lineno})")
        shutil.rmtree(place)
    print(f"{COUNT} mutants:", dict(outcomes), f"wrong: {len(wrong)}", *wrong, sep="\n")  # noqa: T201
    assert wrong == []
    if COUNT >= 150:
        assert min(outcomes["refused"], outcomes["sound"], outcomes["allowed"]) > 0
