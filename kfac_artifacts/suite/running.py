"""Running a suite: search, then every seed; on one device or a process for each."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import torch

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.places import hold
from kfac_artifacts.progress import Advance, Progress, silent
from kfac_artifacts.suite.declaration import Arm, MergeSpec, Suite
from kfac_artifacts.suite.results import SuiteResults, rows_of
from kfac_artifacts.suite.session import Choice, Session
from kfac_artifacts.suite.store import Store

Job: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A method of ``Session`` with its arguments; what it gives is kept in the store."""
PACKAGES = ("kfac-artifacts", "torch", "transformers")


def run_suite(
    suite: Suite,
    directory: str | Path,
    *,
    devices: Sequence[str] = ("auto",),
    progress: Progress = silent,
) -> SuiteResults:
    """Run a suite; whatever was done before, in this directory, is not done again.

    For every arm the learning rate and the weight are chosen by the accuracy of the
    merged model (at α = 1) on validation data, with the first seed. Then all seeds are
    trained and reported on test data: at α = 1, and, if the suite has ``alphas``, at
    the one that is best on the validation data.

    Args:
        suite: What is to be run.
        directory: Where everything is kept.
        devices: Where to compute; of several each has a process, so that ``cpu`` twice
            is two processes.
        progress: Shows how much of every stage is done.

    Returns:
        The results.

    Raises:
        PlaceError: If the directory is of something else, or another run is in it.
        SettingsError: If there is no device.
    """
    if not devices:
        raise SettingsError("a suite needs a device to run on")
    started = time.perf_counter()
    store = Store(directory)
    with hold(store.root / "running"), _doing(suite, store, devices) as do:
        session = Session(suite, store, devices[0])
        with progress("computing curvature", len(_curvatures(suite))) as advance:
            do(session, _curvatures(suite), advance)
        choices = _search(suite, session, do, progress)
        finals = [
            (arm, choices[arm.name][0], seed)
            for arm in suite.arms
            for seed in suite.seeds
        ]
        _train(suite, session, do, finals, progress, "training every seed")
        jobs = [
            ("scores", (arm, choice, seed, merging), {"part": "test", "alphas": alphas})
            for arm, choice, seed in finals
            for merging in arm.merges
            for alphas in _alphas(suite)
        ]
        with progress("measuring", len(jobs)) as advance:
            do(session, jobs, advance)
        return _results(suite, session, choices, time.perf_counter() - started)


Do: TypeAlias = Callable[[Session, Sequence[Job], Advance], None]


@contextmanager
def _doing(suite: Suite, store: Store, devices: Sequence[str]) -> Iterator[Do]:
    """Give what does jobs: here, or in a process for every device."""
    if len(devices) == 1:
        yield _here
        return
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for device in devices:
        free.put(device)
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    with ProcessPoolExecutor(
        len(devices), context, _begin, (suite, store.root, free, threads)
    ) as pool:

        def there(_: Session, jobs: Iterable[Job], advance: Advance) -> None:
            waiting = [pool.submit(_do, job) for job in jobs]
            try:
                for done in as_completed(waiting):
                    done.result()
                    advance(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

        yield there


def _here(session: Session, jobs: Iterable[Job], advance: Advance) -> None:
    for name, values, named in jobs:
        getattr(session, name)(*values, **named)
        advance(1)


_SESSION: list[Session] = []
"""That of this process, if it is one of several."""


def _begin(suite: Suite, root: Path, free: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _SESSION.append(Session(suite, Store(root), free.get()))


def _do(job: Job) -> None:
    name, values, named = job
    getattr(_SESSION[0], name)(*values, **named)


def _curvatures(suite: Suite) -> list[Job]:
    """Every artifact that an arm needs; a reference has one for all tasks."""
    used = {arm.curvature for arm in suite.arms}
    used |= {merge.curvature for arm in suite.arms for merge in arm.merges}
    jobs: list[Job] = []
    for spec in suite.curvatures:
        tasks = suite.tasks if spec.reference is None else suite.tasks[:1]
        jobs += [
            ("curvature", (spec, task.name, seed), {})
            for task, seed in product(tasks, suite.seeds)
            if spec.name in used
        ]
    return jobs


def _search(
    suite: Suite, session: Session, do: Do, progress: Progress
) -> dict[str, tuple[Choice, list[dict[str, Any]]]]:
    """Choose rate and weight of every arm, by the first seed's validation accuracy."""
    seed = suite.seeds[0]
    tried = [
        (arm, Choice(rate, weight), seed)
        for arm in suite.arms
        if len(arm.rates) * len(arm.weights) > 1
        for rate, weight in product(arm.rates, arm.weights)
    ]
    _train(suite, session, do, tried, progress, "searching")
    jobs = [("scores", (*each, MergeSpec()), {"part": "validation"}) for each in tried]
    with progress("choosing", len(jobs)) as advance:
        do(session, jobs, advance)
    found = {}
    for arm in suite.arms:
        own = [(each, _chosen_by(session, *each)) for each in tried if each[0] is arm]
        if own:
            (_, best, _), _ = max(own, key=lambda pair: pair[1])
        else:
            best = Choice(arm.rates[0], arm.weights[0])
        found[arm.name] = (
            best,
            [{**asdict(choice), "accuracy": score} for (_, choice, _), score in own],
        )
    return found


def _chosen_by(session: Session, arm: Arm, choice: Choice, seed: int) -> float:
    scores = session.scores(arm, choice, seed, MergeSpec(), part="validation")
    return float(scores["modes"][arm.select]["absolute"][0])


def _train(
    suite: Suite,
    session: Session,
    do: Do,
    wanted: Sequence[tuple[Arm, Choice, int]],
    progress: Progress,
    stage: str,
) -> None:
    jobs: list[Job] = [
        ("vector", (arm, task.name, choice, seed), {})
        for arm, choice, seed in wanted
        for task in suite.tasks
    ]
    with progress(stage, len(jobs)) as advance:
        do(session, jobs, advance)


def _alphas(suite: Suite) -> list[tuple[float, ...]]:
    """α = 1, and all to choose from if there are some."""
    return [(1.0,), suite.alphas] if suite.alphas else [(1.0,)]


def _results(
    suite: Suite,
    session: Session,
    choices: dict[str, tuple[Choice, list[dict[str, Any]]]],
    seconds: float,
) -> SuiteResults:
    rows, pretrained = [], 0.0
    for arm in suite.arms:
        choice, _ = choices[arm.name]
        for merging, alphas in product(arm.merges, _alphas(suite)):
            found = [
                session.scores(arm, choice, seed, merging, part="test", alphas=alphas)
                for seed in suite.seeds
            ]
            pretrained = next(iter(found[0]["modes"].values()))["pretrained"]
            chosen = len(alphas) > 1
            about = (choice.rate, choice.weight)
            rows += rows_of(arm.name, merging.name, about, found, chosen=chosen)
    versions = {package: version(package) for package in PACKAGES}
    return SuiteResults(
        suite=asdict(suite),
        pretrained=pretrained,
        rows=tuple(rows),
        searches={name: tried for name, (_, tried) in choices.items()},
        versions={**versions, "python": platform.python_version()},
        seconds=seconds,
    )
