"""A suite from its declaration to its page, on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from kfac_artifacts.errors import PlaceError, SettingsError, SourceError
from kfac_artifacts.evaluate import EvaluationTask, evaluate
from kfac_artifacts.sources import load_examples, load_network
from kfac_artifacts.suite import (
    Arm,
    MergeSpec,
    Suite,
    read_suite,
    run_suite,
    write_report,
)
from kfac_artifacts.suite.parts import Part, divided
from kfac_artifacts.suite.reading import TRAINING
from kfac_artifacts.suite.search import Trial, finals
from kfac_artifacts.suite.session import Choice, Session
from kfac_artifacts.suite.store import Store
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import TrainSettings
from tests.commands import good, kfac
from tests.suite.conftest import WORDS


def files(directory: Path) -> dict[Path, float]:
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def test_the_command_runs_it_reports_it_and_does_nothing_twice(
    declared: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    found = json.loads(good("suite", declared, "-o", output, "--json"))
    assert json.loads((output / "results.json").read_text()) == found
    shown = [(row["arm"], row["merging"], row["chosen"]) for row in found["rows"]]
    assert len(shown) == 2 * 2 * (3 + 2 + 1 + 1)  # modes, α, merges
    assert ("nothing", "ties keep 0.5", True) in shown
    assert {row["mode"] for row in found["rows"]} == {"linear", "plain"}
    assert [len(found["searches"][arm]) for arm in found["searches"]] == [6, 4, 0, 0]
    for row in found["rows"]:
        tried = [
            each
            for each in found["searches"][row["arm"]]
            if each["merging"] == row["merging"]
        ]
        if tried:
            key = "best" if row["chosen"] else "accuracy"
            best = max(tried, key=lambda each: each[key])
            assert (row["rate"], row["weight"]) == (best["rate"], best["weight"])
    for row in found["rows"]:
        for spread in row["scores"].values():
            assert len(spread["values"]) == 2
            assert spread["deviation"] == pytest.approx(stdev(spread["values"]))
        if not row["chosen"]:
            assert row["alphas"] == [1.0, 1.0]
    page = (output / "report.html").read_text()
    assert "tiny &amp; small" in page
    assert "delta &lt;b&gt;" in page
    assert "<b>" not in page
    assert "://" not in page  # it needs nothing else
    before = files(output)
    plain = good("suite", declared, "-o", output)
    assert "± " in plain
    after = files(output)
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed <= {"results.json", "report.html"}
    again = json.loads((output / "results.json").read_text())
    assert again["rows"] == found["rows"]


def test_rows_are_what_evaluation_finds(declared: Path, tmp_path: Path) -> None:
    suite = small(read_suite(declared))
    results = run_suite(suite, tmp_path / "out")
    session = Session(suite, Store(tmp_path / "out"))
    (arm,) = suite.arms
    tried = [t for t in results.searches[arm.name] if t["merging"] == "sum"]
    best = max(tried, key=lambda each: float(str(each["accuracy"])))
    row = next(
        r
        for r in results.rows
        if r.mode == "linear" and r.merging == "sum" and not r.chosen
    )
    assert (row.rate, row.weight) == (best["rate"], best["weight"])
    network = load_network(suite.model)
    tasks = [
        EvaluationTask(
            task.name,
            TaskVector.load(
                session.vector(arm, task.name, Choice(row.rate, row.weight), 0)
            ),
            load_examples(task.test, network, label_column="label"),
        )
        for task in suite.tasks
    ]
    expected = evaluate(network, tasks).modes[0]
    assert row.scores["absolute"].values == expected.absolute
    assert row.scores["individual"].values == (expected.individual,)
    assert results.pretrained == expected.pretrained


def test_a_warning_says_of_which_training_it_is(
    declared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suite = small(read_suite(declared))
    (arm,) = suite.arms
    held = replace(arm, name="held", rates=(1e-4,), weights=(1e9,))
    run_suite(replace(suite, arms=(held,)), tmp_path / "out")
    told = [r.getMessage() for r in caplog.records if "hardly anything" in r.message]
    assert {line.split(": hardly")[0] for line in told} == {
        f"held, {task.name}, rate 0.0001, λ 1e+09, seed 0" for task in suite.tasks
    }


def test_a_cross_tries_every_rate_and_then_weights_at_the_best(
    declared: Path, tmp_path: Path
) -> None:
    """With fewer settings than a grid, and with the same numbers where both look."""
    declared.write_text(f'search = "cross"\n{declared.read_text()}')
    suite = small(read_suite(declared))
    arm = replace(suite.arms[0], rates=(1e-3, 1e-2, 1e-1), weights=(10.0, 0.1, 1.0))
    arm = replace(arm, merges=(MergeSpec(),))
    cross = run_suite(replace(suite, arms=(arm,)), tmp_path / "out")
    tried = cross.searches[arm.name]
    settings = [(each["rate"], each["weight"]) for each in tried]
    assert settings[:3] == [(rate, 1.0) for rate in arm.rates]
    best = max(tried[:3], key=lambda each: float(str(each["accuracy"])))["rate"]
    assert settings[3:] == [(best, 10.0), (best, 0.1)]

    grid = replace(suite, arms=(arm,), search="grid")
    whole = run_suite(grid, tmp_path / "out").searches[arm.name]
    assert len(whole) == 9
    assert all(each in whole for each in tried)


def test_an_arm_of_some_tasks_is_a_suite_of_them(
    declared: Path, tmp_path: Path
) -> None:
    suite = read_suite(declared)
    of_curvature, of_data = suite.arms[1], suite.arms[3]
    arms = [replace(arm, weights=(1.0,)) for arm in (of_curvature, of_data)]
    few = ("animals", "actions")
    some = [replace(arm, tasks=few, name=f"{arm.name}, two") for arm in arms]
    both = replace(suite, arms=(*arms, *some), seeds=(0,), alphas=())
    own = tuple(task for task in suite.tasks if task.name in few)
    apart = replace(suite, tasks=own, arms=tuple(arms), seeds=(0,), alphas=())
    found = run_suite(both, tmp_path / "both", devices=("cpu",))
    wanted = run_suite(apart, tmp_path / "apart", devices=("cpu",))
    rows = [row for row in found.rows if row.arm.endswith(", two")]
    assert rows == [replace(row, arm=f"{row.arm}, two") for row in wanted.rows]
    assert {*rows[0].tasks} == {*few}
    whole = [row for row in found.rows if not row.arm.endswith(", two")]
    assert {*whole[0].tasks} == {*WORDS}
    assert found.pretrained != wanted.pretrained
    assert {row.pretrained for row in rows} == {wanted.pretrained}
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{row.arm} (2 tasks)</td>" in page for row in rows)
    assert not any(f"{row.arm} (" in page for row in whole)
    for table in page.split("<h2>")[1:-1]:  # best of all, and best of those of two
        assert table.count("class=best") >= 2


def test_ablations_are_declared_as_arms(declared: Path, tmp_path: Path) -> None:
    text = declared.read_text()
    begin, tasks = text.index("[[curvatures]]"), text[text.index("[[tasks]]") :]
    curvatures = {
        "of all": "",
        "of few": "examples = 6",
        "of two draws": "draws = 2",
        "small": 'recipe = "small"',
        "universal": 'reference = "animals.csv"',
    }
    declares = [f'[[curvatures]]\nname = "{n}"\n{s}' for n, s in curvatures.items()]
    arm = '[[arms]]\nname = "{}"\ncurvature = "{}"\nrates = [0.01]\n{}'
    weighed = "weights = [1]"
    declares += [arm.format(name, name, weighed) for name in curvatures]
    declares += [
        arm.format("every 2", "of all", f"{weighed}\nevery = 2"),
        arm.format("two tasks", "of all", f'{weighed}\ntasks = ["animals", "actions"]'),
        arm.format("λ 100", "of all", "weights = [100]"),
    ]
    header = text[:begin].replace("seeds = [0, 1]", "seeds = [0]")
    declared.write_text("\n".join([header, *declares, tasks]))
    found = json.loads(good("suite", declared, "-o", tmp_path / "out", "--json"))
    reached = {row["arm"]: row["scores"]["absolute"]["mean"] for row in found["rows"]}
    assert len(reached) == len(curvatures) + 3
    places = [p.parent for p in (tmp_path / "out").glob("vectors/*/task_vector.json")]
    assert len(places) == 3 * len(reached) - 1  # of two tasks one less, all others anew
    assert len({TaskVector.load(place).sha256 for place in places}) == len(places)


def test_a_search_of_no_known_kind_is_refused(declared: Path) -> None:
    declared.write_text(f'search = "random"\n{declared.read_text()}')
    with pytest.raises(SettingsError, match=r"search.*grid, cross"):
        read_suite(declared)


def small(suite: Suite) -> Suite:
    """Its second arm, with one seed."""
    return replace(suite, arms=(suite.arms[1],), seeds=(0,), alphas=())


def test_what_decides_a_number_has_a_key_of_its_own(
    declared: Path, tmp_path: Path
) -> None:
    suite = read_suite(declared)
    session = Session(suite, Store(tmp_path / "out"))
    arm, other = suite.arms[1], suite.arms[0]
    choice = Choice(0.01, 1.0)
    ways = [
        session.about(arm, "animals", choice, 0),
        session.about(arm, "animals", choice, 1),
        session.about(arm, "colours", choice, 0),
        session.about(arm, "animals", Choice(0.01, 2.0), 0),
        session.about(arm, "animals", Choice(0.02, 1.0), 0),
        session.about(other, "animals", choice, 0),
        session.about(replace(arm, every=2), "animals", choice, 0),
        session.about(replace(arm, regime="ordinary"), "animals", choice, 0),
        session.about(replace(arm, curvature="public"), "animals", choice, 0),
    ]
    places = {session.store.place("vectors", way) for way in ways}
    assert len(places) == len(ways)
    renamed = replace(arm, name="x", rates=(1.0, 2.0), merges=(MergeSpec("tsv"),))
    assert session.about(renamed, "animals", choice, 0) == ways[0]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("colours.csv", "the red is in a red,first", "the red is in a red,second"),
        ("animals.csv", "the cat", "the dog"),
        ("suite.toml", "seeds", "max_length = 3\nseeds"),
        ("suite.toml", 'cotangents = "exact"', 'cotangents = "mc"'),
        ("suite.toml", "low-rank-2+int8", "int8"),
        ("suite.toml", '"colours"\n', '"colours"\nlogit_scale = 3\n'),
    ],
)
def test_what_was_changed_under_its_name_is_made_anew(
    declared: Path, tmp_path: Path, file: str, old: str, new: str
) -> None:
    """Labels, texts, how they are cut off, and how curvature is computed."""

    def keys() -> set[Path]:
        suite = read_suite(declared)
        session = Session(suite, Store(tmp_path / "out"))
        choice = Choice(0.01, 1.0)
        return {
            session.store.place("vectors", session.about(arm, "colours", choice, 0))
            for arm in suite.arms[1:3]
        }

    before = keys()
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert keys() != before
    if file == "colours.csv" or "max_length" in new:
        assert not keys() & before


def test_validation_data_are_of_no_other_part(declared: Path, tmp_path: Path) -> None:
    suite = read_suite(declared)
    session = Session(suite, Store(tmp_path / "out"))
    task = session.tasks["animals"]
    own, chosen_on = task.train, task.validation
    assert isinstance(own, Part)
    assert isinstance(chosen_on, Part)
    assert len(chosen_on) == 2
    assert {*own.indices, *chosen_on.indices} == {*range(20)}
    again, _ = divided(own.whole, 0)
    other, _ = divided(own.whole, 1)
    assert again.indices == own.indices != other.indices
    expected = own.whole.info([own.indices[0]])
    assert own.info([0]) == replace(expected, size=18)
    assert own.labels[3] == own.whole.labels[own.indices[3]]


def test_every_way_to_merge_has_the_setting_that_is_best_for_itself() -> None:
    def trial(rate: float, merging: str, accuracy: float, best: float) -> Trial:
        return Trial(Choice(rate, None), merging, accuracy, 0.5, best)

    merges = (MergeSpec(), MergeSpec("ties"))
    arm = Arm("nothing", rates=(0.1, 0.2), merges=merges)
    suite = Suite("s", "m", (), (arm,), alphas=(0.5, 1.0))
    trials = [
        *(trial(0.1, "sum", 0.6, 0.61), trial(0.2, "sum", 0.5, 0.7)),
        *(trial(0.1, "ties", 0.3, 0.4), trial(0.2, "ties", 0.35, 0.36)),
    ]
    found = [
        (final.merging.method, final.alphas, final.choice.rate)
        for final in finals(suite, {"nothing": trials})
    ]
    assert found == [
        ("sum", (1.0,), 0.1),
        ("sum", (0.5, 1.0), 0.2),
        ("ties", (1.0,), 0.2),
        ("ties", (0.5, 1.0), 0.1),
    ]


def test_two_processes_find_what_one_finds(declared: Path, tmp_path: Path) -> None:
    suite = small(read_suite(declared))
    one = run_suite(suite, tmp_path / "one")
    two = run_suite(suite, tmp_path / "two", devices=("cpu", "cpu"))
    assert two.rows == one.rows
    assert two.searches == one.searches


DONE = "vectors/[!.]*/task_vector.safetensors"
KILLED = """
import sys
from pathlib import Path
from kfac_artifacts.suite import read_suite, run_suite
from tests.suite.test_suite import small
run_suite(small(read_suite(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.processes
def test_a_killed_suite_goes_on(declared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, str(declared), str(output)]
    with subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        until(lambda: len([*output.glob(DONE)]) >= 2)
        process.send_signal(signal.SIGKILL)
    vectors = files(output / "vectors")
    whole = [*output.glob(DONE)]
    suite = small(read_suite(declared))
    results = run_suite(suite, output)
    after = files(output / "vectors")
    assert all(after[path] == vectors[path] for path in whole)
    assert results.rows == run_suite(suite, tmp_path / "whole").rows
    write_report(results, tmp_path / "page.html")


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "TAK"', 'nam = "TAK"', "arms[1] lacks 'name'"),
        ("seeds = [0, 1]", "seeds = [0.5]", "seeds[0] must be a number"),
        ("seeds = [0, 1]", "seed = [0]", "unknown field 'seed'"),
        ("steps = 4", "stepps = 4", "unknown 'stepps'"),
        ('curvature = "exact"', 'curvature = "kfac"', "'kfac', and there are exact"),
        ('regime = "delta"', 'regime = "dleta"', "must be one of linearised"),
        ("{path =", "{rank = 3, path =", "rank is no setting of the regime delta"),
        ('penalty = "tau-jp"', 'penalty = "kfac"', "its penalty needs one"),
        ('name = "nothing"', 'name = "TAK"', "two arms have one name"),
        ('merges = ["sum", "regmean"]', 'merges = ["mean"]', "must be one of sum"),
        ('curvature = "exact"}', 'curvature = "kfac"}', "'kfac', and there are exact"),
        ('"regmean", curvature = "exact"', '"regmean"', "regmean needs a curvature"),
        ('"regmean", curvature', '"tsv", curvature', "tsv takes no curvature"),
        ("modules = [", "modules = [1, ", "modules[0] must be a string"),
        ('head = "prototypes"', "logit_scale = 0", "logit_scale must be above 0"),
        ('name = "TAK"', 'name = "TAK"\ntasks = ["actions", "birds"]', "'birds', and"),
        ('name = "TAK"', 'name = "TAK"\ntasks = ["actions"]', "is for one task"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "a seed stands twice in [0, 0]"),
        ("seeds = [0, 1]", "seeds = []", "seeds is empty"),
        ("steps = 4", "steps = 0", "the arm nothing: steps must be at least 1"),
        ('name = "TAK"', 'name = "TAK"\nevery = 0', "the arm TAK: every must be at"),
        ("seeds", "[", "cannot be read as a suite"),
    ],
)
def test_a_wrong_declaration_is_one_line(
    declared: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = declared.read_text()
    assert old in text
    declared.write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError) as error:
        read_suite(declared)
    assert message in str(error.value)
    done = kfac("suite", declared, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_task_of_one_class_is_refused_by_name(declared: Path, tmp_path: Path) -> None:
    suite = small(read_suite(declared))
    one = tmp_path / "one.csv"
    rows = Path(suite.tasks[0].train).read_text().splitlines()
    same = [row for row in rows[1:] if row.split(",")[-1] == rows[1].split(",")[-1]]
    one.write_text("\n".join([rows[0], *same]) + "\n")
    tasks = (replace(suite.tasks[0], train=str(one)), *suite.tasks[1:])
    with pytest.raises(
        SourceError, match=r"animals: all rows of .*one\.csv are of one"
    ):
        run_suite(replace(suite, tasks=tasks), tmp_path / "out")


def test_a_directory_of_something_else_is_left_alone(
    declared: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PlaceError, match="not of a suite"):
        run_suite(read_suite(declared), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_a_suite_may_say_of_training_are_its_settings() -> None:
    known: Any = {field.name for field in fields(TrainSettings)}
    assert set(TRAINING) <= known
