"""Several processes compute what one computes, with every factor or only its own."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.format import load_artifact
from tests.computed import COMPUTE
from tests.estimate.processes import CASES, KFAC, PLAIN, SHARDED, finish, start

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def together(tmp_path_factory: Any) -> Path:
    """What two processes have written, for all cases."""
    output: Path = tmp_path_factory.mktemp("together")
    arguments = ["-m", "tests.estimate.processes", str(output), *CASES]
    for status, _, stderr in finish(start(arguments)):
        assert status == 0, stderr
    return output


@cache
def alone(name: str) -> Artifact:
    """What one process computes."""
    return PLAIN[name].run()[1]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_factors_of_one(together: Any, name: str) -> None:
    one = alone(name.removeprefix("sharded-"))
    two = load_artifact(together / name)
    assert two.blocks == one.blocks
    assert two.provenance == one.provenance
    assert set(two.factors) == set(one.factors)
    for factor in one.factors:
        torch.testing.assert_close(
            two.factors[factor].to_dense(),
            one.factors[factor].to_dense().float(),
            rtol=1e-5,
            atol=1e-7,
            msg=lambda m, n=factor: f"{n}: {m}",  # type: ignore[misc]
        )


def told(together: Any, name: str) -> Any:
    return [json.loads((together / f"{name}-{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_left_as_it_was_found(together: Any, name: str) -> None:
    assert all(process["restored"] for process in told(together, name))


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_sums_and_factors_live_on_one_process_each(
    together: Any, name: str
) -> None:
    everything = set(load_artifact(together / name, verify=False).factors)
    first, second = (set(process["own"]) for process in told(together, name))
    assert first
    assert second
    assert not first & second
    assert first | second == everything
    first, second = (set(process["sums"]) for process in told(together, name))
    assert first
    assert second
    assert not first & second


@pytest.mark.parametrize("name", PLAIN)
def test_without_sharding_every_process_has_every_factor(
    together: Any, name: str
) -> None:
    everything = set(load_artifact(together / name, verify=False).factors)
    assert all(set(process["own"]) == everything for process in told(together, name))


def kfac(*arguments: Any) -> list[str]:
    return [*KFAC, *map(str, arguments)]


@pytest.fixture
def data(tmp_path: Path) -> Any:
    rows = ["the cat", "a dog sings", "bird", "the red fish swims", "a black cat"]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text", *rows, ""]))
    return path


@pytest.mark.parametrize("options", [[], ["--shard", "--estimator", "nearest"]])
def test_the_command_writes_and_reports_once(
    tmp_path: Path, data: Any, saved_model: Any, options: Any
) -> None:
    def command(output: Any) -> Any:
        start = [*COMPUTE, saved_model("bert"), data, "--batch-size", "2"]
        return kfac(*start, "-o", tmp_path / output, *options)

    (main, other) = finish(start(command("two")))
    ((status, stdout, _),) = finish(start(command("one"), size=1))
    assert main[0] == other[0] == status == 0, main[2] + other[2]
    assert stdout.count(f"{tmp_path / 'one'}: ") == 1
    assert main[1].count(f"{tmp_path / 'two'}: ") == 1
    assert other[1] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "one", "two"]
    one, two = load_artifact(tmp_path / "one"), load_artifact(tmp_path / "two")
    assert (two.blocks, two.provenance) == (one.blocks, one.provenance)
    for name in one.factors:
        torch.testing.assert_close(
            two.factors[name].to_dense(),
            one.factors[name].to_dense(),
            rtol=1e-3,
            atol=1e-6,
        )
    assert options == [] or two.provenance.estimator.name == "nearest"


def test_too_few_examples_are_refused_by_all_processes(
    tmp_path: Path, data: Any, saved_model: Any
) -> None:
    start_of = (*COMPUTE, saved_model("bert"), data, "-o", tmp_path / "out")
    for status, _, stderr in finish(start(kfac(*start_of, "--examples", 1))):
        assert status == 1
        assert "1 examples are too few for 2 processes" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["plain", "nearest", "shard"])
def test_what_one_process_fails_at_is_a_failure_of_all(mode: Any) -> None:
    (zero, one) = finish(start(["-c", FAILING, mode]))
    assert zero[1] == "process 1 failed: rank 1 cannot read this\n", zero[2]
    assert one[1] == "rank 1 cannot read this\n", one[2]


FAILING = """
import os, sys
from dataclasses import replace
from kfac_artifacts.estimate import ComputeOptions
from kfac_artifacts.errors import KfacError
from tests.estimate.processes import PLAIN, Texts

class Broken(Texts):
    def batch(self, indices):
        if 1 in indices and len(indices) == 2 and os.environ["RANK"] == "1":
            times.pop()  # nearest fails at its second look, others at the first
            if not times:
                raise KfacError("rank 1 cannot read this")
        return super().batch(indices)

times = [1, 2] if sys.argv[1] == "nearest" else [1]
case = PLAIN["nearest" if sys.argv[1] == "nearest" else "kfac"]
broken = Broken(case.examples.tensors, "x")
try:
    shard = ComputeOptions(shard=sys.argv[1] == "shard")
    replace(case, examples=broken, options=shard).run()
except KfacError as error:
    print(error)
"""


def test_processes_that_were_given_different_jobs_refuse() -> None:
    for _, stdout, stderr in finish(start(["-c", DIFFERENT])):
        assert stdout.startswith("process 1 was given another job"), stderr
        assert stdout.endswith("they differ in source\n")


DIFFERENT = """
import os
from dataclasses import replace
from kfac_artifacts.errors import MismatchError
from tests.estimate.processes import PLAIN

case = PLAIN["kfac"]
try:
    replace(case, draws=1 + int(os.environ["RANK"])).run()
except MismatchError as error:
    print(error)
"""


def test_a_factor_of_another_process_is_not_given_by_chance(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    (main, other) = finish(start(["-c", ELSEWHERE, str(tmp_path)]))
    assert "lives on process 1" in main[1], main[2]
    assert "lives on process 0" in other[1], other[2]
    assert main[1].endswith("which would be lost; choose another place\n")
    assert other[1].endswith("process 0 could not go on; look what it says\n")


ELSEWHERE = """
import sys
from pathlib import Path
from kfac_artifacts.errors import FactorError, KfacError
from kfac_artifacts.estimate import save_together
from tests.estimate.processes import SHARDED

_, artifact = SHARDED["sharded-images"].run()
other = next(n for n in artifact.factors if n not in artifact.factors.own)
try:
    artifact.factors[other]
except FactorError as error:
    print(error)
try:
    save_together(artifact, Path(sys.argv[1]))
except KfacError as error:
    print(error)
"""


@pytest.mark.parametrize("end", ["pass", "raise KfacError", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("name", ["kfac", "sharded-kfac"])
def test_no_thread_of_the_group_outlives_a_process(name: str, end: Any) -> None:
    """One that does makes the interpreter abort as it ends, now and then."""
    for _, stdout, stderr in finish(start(["-c", ENDING.format(end=end), name])):
        assert stdout == "True before and 0 after\n", stderr


ENDING = """
import atexit, os, sys
from kfac_artifacts.errors import KfacError
from tests.estimate.processes import CASES

def threads():
    return [name for each in os.listdir("/proc/self/task")
            if (name := open(f"/proc/self/task/{{each}}/comm").read()).startswith(
                ("pt_gloo", "gloo"))]

atexit.register(lambda: print(f"and {{len(threads())}} after"))
CASES[sys.argv[1]].run()
print(f"{{bool(threads())}} before", end=" ")
{end}
"""
