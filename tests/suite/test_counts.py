"""What is counted once is not counted again, and is what it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.evaluate import Counted
from kfac_artifacts.suite import MergeSpec, Suite, read_suite
from kfac_artifacts.suite.counts import StoredCounts
from kfac_artifacts.suite.session import Choice, Session
from kfac_artifacts.suite.store import Store

CHOICE = Choice(0.01, None)
ALPHAS = (0.5, 1.0, 1.5)
TIES = MergeSpec("ties", {"keep": 0.5})
COMPARING = 3
"""Passes in which f of two examples is compared: together, and alone."""


@pytest.fixture
def suite(declared: Path) -> Suite:
    return read_suite(declared)


def scores(session: Session, merging: MergeSpec = TIES, **named: Any) -> Any:
    arm = session.suite.arms[0]
    return session.scores(arm, CHOICE, 0, merging, **{"part": "test", **named})


def passes(session: Session, **named: Any) -> int:
    """How many forward passes it takes to measure something."""
    count = 0

    def seen(*_: Any) -> None:
        nonlocal count
        count += 1

    handle = session.network.module.register_forward_hook(seen)
    try:
        scores(session, **named)
    finally:
        handle.remove()
    return count


@pytest.mark.parametrize("alphas", [(1.0,), ALPHAS])
@pytest.mark.parametrize("mode", ["linear", "plain"])
def test_what_is_kept_is_what_is_counted_anew(
    suite: Suite, tmp_path: Path, alphas: tuple[float, ...], mode: str
) -> None:
    named: dict[str, Any] = {"alphas": alphas, "modes": (mode,)}
    after = Session(suite, Store(tmp_path / "after"))
    scores(after, MergeSpec())
    scores(after, part="validation", alphas=(1.0, 2.0))
    first = Session(suite, Store(tmp_path / "first"))
    assert scores(after, **named) == scores(first, **named)


def test_of_another_way_to_merge_only_what_it_gives_is_counted(
    suite: Suite, tmp_path: Path
) -> None:
    session = Session(suite, Store(tmp_path / "out"))
    for task in suite.tasks:
        session.vector(suite.arms[0], task.name, CHOICE, 0)
    plain: dict[str, Any] = {"modes": ("plain",)}
    tasks = len(suite.tasks)
    assert passes(session, merging=MergeSpec(), **plain) == (3 + COMPARING) * tasks
    assert passes(session, **plain) == (1 + COMPARING) * tasks
    linear: dict[str, Any] = {"modes": ("linear",)}
    both = passes(session, merging=MergeSpec(), **linear)
    compared = COMPARING * tasks
    assert passes(session, **linear) - compared == (both - compared) / 2


def test_a_chosen_factor_that_was_measured_is_not_measured_again(
    suite: Suite, tmp_path: Path
) -> None:
    session = Session(suite, Store(tmp_path / "out"))
    scores(session, modes=("plain",))
    scores(session, modes=("plain",), part="validation", alphas=ALPHAS)
    took = passes(session, modes=("plain",), alphas=ALPHAS)
    found = scores(session, modes=("plain",), alphas=ALPHAS)["modes"]["plain"]
    measured = (1 + COMPARING) * len(suite.tasks)
    assert took == (0 if found["alphas"] == [1.0] else measured)


def test_what_decides_a_count_has_a_key_of_its_own(tmp_path: Path) -> None:
    task: dict[str, Any] = {
        "reported": "test",
        "validation": "dev",
        "head": "h",
        "vector": {"lr": 1},
    }
    kept = StoredCounts(Store(tmp_path), {"base": "one"}, [task], {"method": "sum"})
    own = Counted(0, validation=False, mode="linear", vector="own")
    kept.keep(own, {1.0: 7, 0.1: 3})
    assert kept.find(own) == {1.0: 7, 0.1: 3}
    others = [
        replace(own, validation=True),
        replace(own, mode="plain"),
        replace(own, vector="none"),
        replace(own, vector="merged"),
    ]
    assert not any(kept.find(other) for other in others)
    for changed in (
        replace(kept, network={"base": "two"}),
        *(replace(kept, tasks=[{**task, k: "x"}]) for k in ("reported", "head")),
        replace(kept, tasks=[{**task, "vector": {"lr": 2}}]),
    ):
        assert not changed.find(own)
    same = replace(kept, merged={"method": "ties"}, tasks=[{**task, "validation": ""}])
    assert same.find(own) == {1.0: 7, 0.1: 3}
