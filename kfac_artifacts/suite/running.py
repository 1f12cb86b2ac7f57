"""Running a suite: search, then every seed; on one device or a process for each."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from kfac_artifacts.suite.declaration import Suite
from kfac_artifacts.suite.results import SuiteResults, rows_of
from kfac_artifacts.suite.search import Final, Search, Trial, finals
from kfac_artifacts.suite.session import Session
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

    For every arm and way to merge, the learning rate and the weight are chosen by the
    accuracy of the merged model on validation data, with the first seed. Then all seeds
    are trained and reported on test data: at α = 1, and, if the suite has ``alphas``,
    at the one that is best on the validation data, for which rate and weight are chosen
    together with it.

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
        search = Search(suite)
        for tried in search.stages(session):
            at = [(arm, choice, search.seed) for arm, choice in tried]
            _train(session, do, at, progress, "searching")
            jobs = [("scores", *asked) for asked in search.asked(tried)]
            with progress("choosing", len(jobs)) as advance:
                do(session, jobs, advance)
        trials = {arm.name: search.trials(session, arm) for arm in suite.arms}
        reported = [*finals(suite, trials)]
        chosen = dict.fromkeys(
            (final.arm.name, final.choice, seed)
            for final, seed in product(reported, suite.seeds)
        )
        arms = {arm.name: arm for arm in suite.arms}
        settings = [(arms[name], *rest) for name, *rest in chosen]
        _train(session, do, settings, progress, "training every seed")
        jobs = [
            ("scores", (f.arm, f.choice, seed, f.merging), _on_test(f))
            for f, seed in product(reported, suite.seeds)
        ]
        with progress("measuring", len(jobs)) as advance:
            do(session, jobs, advance)
        seconds = time.perf_counter() - started
        return _results(session, reported, trials, seconds)


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
    jobs: list[Job] = []
    for spec in suite.curvatures:
        used = {
            task
            for arm in suite.arms
            if spec.name in {arm.curvature, *(m.curvature for m in arm.merges)}
            for task in suite.tasks_of(arm)
        }
        tasks = [task.name for task in suite.tasks if task.name in used]
        jobs += [
            ("curvature", (spec, task, seed), {})
            for task, seed in product(
                tasks if spec.reference is None else tasks[:1], suite.seeds
            )
        ]
    return jobs


def _train(
    session: Session,
    do: Do,
    wanted: Sequence[tuple[Any, ...]],
    progress: Progress,
    stage: str,
) -> None:
    jobs: list[Job] = [
        ("vector", (arm, task, choice, seed), {})
        for arm, choice, seed in wanted
        for task in session.suite.tasks_of(arm)
    ]
    with progress(stage, len(jobs)) as advance:
        do(session, jobs, advance)


def _on_test(final: Final) -> dict[str, Any]:
    return {"part": "test", "alphas": final.alphas}


def _results(
    session: Session,
    reported: Sequence[Final],
    trials: Mapping[str, Sequence[Trial]],
    seconds: float,
) -> SuiteResults:
    suite, rows, pretrained = session.suite, [], 0.0
    most = max(len(suite.tasks_of(f.arm)) for f in reported)
    for f in reported:
        found = [
            session.scores(f.arm, f.choice, seed, f.merging, **_on_test(f))
            for seed in suite.seeds
        ]
        if len(suite.tasks_of(f.arm)) == most:
            pretrained = next(iter(found[0]["modes"].values()))["pretrained"]
        about = (f.choice.rate, f.choice.weight)
        chosen = len(f.alphas) > 1
        rows += rows_of(f.arm.name, f.merging.name, about, found, chosen=chosen)
    versions = {package: version(package) for package in PACKAGES}
    return SuiteResults(
        suite=asdict(suite),
        pretrained=pretrained,
        rows=tuple(rows),
        searches={name: [t.to_json() for t in own] for name, own in trials.items()},
        versions={**versions, "python": platform.python_version()},
        seconds=seconds,
    )
