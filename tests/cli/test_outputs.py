"""Where commands write: nothing that others wrote, no input, one clear line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.errors import PlaceError
from kfac_artifacts.places import hold
from tests.cli.test_artifacts import bad, good, texts
from tests.computed import COMPUTE
from tests.models import SavedModel
from tests.places.made import tree
from tests.places.surroundings import mounted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, saved_model: SavedModel) -> Path:
    """A model, two artifacts of it with their data, and a task vector."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(saved_model("bert"), root / "model")
    for i, name in enumerate(("one", "two")):
        data = texts(root / f"{name}.csv", 5, shift=i)
        good(*COMPUTE, root / "model", data, "-o", root / name, "--data-id", name)
    for name, part in (("low", "--modules"), ("high", "--exclude")):
        words = (*COMPUTE, root / "model", root / "one.csv", "-o", root / name)
        good(*words, part, "*.layer.0.*")
    network = kfac.load_network(str(root / "model"), device="cpu")
    parameters = network.parameters()
    name = next(n for n in parameters if n.endswith("query.weight"))
    change = {name: torch.ones_like(parameters[name])}
    kfac.TaskVector(change, network.base.restrict({name})).save(str(root / "tau"))
    labelled = "text,label\n" + "".join(f"the cat,{'ab'[i % 2]}\n" for i in range(8))
    (root / "labelled.csv").write_text(labelled)
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of that, to be put at risk, as the working directory."""
    shutil.copytree(made, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


TRAIN = ("train", "model", "labelled.csv", "--steps", 1)
COMMANDS = {
    "compute": ((*COMPUTE, "model", "one.csv"), ["model"]),
    "merge": (("merge", "one", "two"), ["one", "two"]),
    "merge --exclude": (("merge", "one", "two", "--exclude", "two"), ["two"]),
    "compress": (("compress", "one", "--task-vector", "tau"), ["one", "tau"]),
    "join": (("join", "low", "high"), ["low", "high"]),
    "apply": (("apply", "model", "tau"), ["model", "tau"]),
    "train": (
        (*TRAIN, "--curvature", "one", "--curvature", "two", "--exclude-own", "two"),
        ["model", "one", "two"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_over_into_or_around_an_input(copy: Path, name: str) -> None:
    words, inputs = COMMANDS[name]
    before = tree(copy)
    for given in inputs:
        for output, what in (
            (given, "is"),
            (f"./{given}/../{given}/", "is"),
            (copy / given / "new" / "deep", "lies in"),
            (copy, "holds"),
        ):
            said = bad(*words, "-o", output, "--force")
            assert f"{what} the input" in said
            assert len(said.splitlines()) == 1
    assert tree(copy) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_removes_what_others_wrote(copy: Path, name: str) -> None:
    words, _ = COMMANDS[name]
    (copy / "notes").mkdir()
    (copy / "notes" / "thesis.tex").write_text("years of work")
    shutil.copytree(copy / "model", copy / "other-model")
    before = tree(copy)
    for output in ("notes", "other-model"):
        assert "would be lost" in bad(*words, "-o", output, "--force")
    assert tree(copy) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_replaces_what_it_wrote_itself(copy: Path, name: str) -> None:
    words, _ = COMMANDS[name]
    good(*words, "-o", "new/out")
    first = tree(copy / "new")
    assert "exists already" in bad(*words, "-o", "new/out")
    good(*words, "-o", "new/out", "--force")
    assert tree(copy / "new").keys() == first.keys()
    (copy / "new" / "out" / "mine.txt").touch()
    assert "mine.txt" in bad(*words, "-o", "new/out", "--force")


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (("--eval-data", "evaluation/data.csv"), "evaluation"),
        (("--class-texts", "texts/classes.txt"), "texts"),
    ],
)
def test_train_keeps_away_from_all_that_it_reads(
    copy: Path, options: tuple[str, str], given: str
) -> None:
    (copy / given).mkdir()
    shutil.copy(copy / "labelled.csv", copy / given / "data.csv")
    shutil.copy(copy / "classes.txt", copy / given / "classes.txt")
    assert "holds the input" in bad(*TRAIN, *options, "-o", given, "--force")
    assert len(list((copy / given).iterdir())) == 2


def test_photos_that_are_given_stay(copy: Path) -> None:
    (copy / "photos").mkdir()
    (copy / "photos" / "1.png").touch()
    for output in ("photos", "photos/out"):
        bad(*COMPUTE, "model", "photos", "-o", output, "--force")
    assert [p.name for p in (copy / "photos").iterdir()] == ["1.png"]


def test_pull_and_push_follow_the_same_rule(copy: Path) -> None:
    before = tree(copy)
    assert "is the input" in refused("push", "one", "./one")
    assert "lies in the input" in refused("push", "one", "./one/copy")
    assert "is the input" in bad("pull", "one", "one", "--force")
    assert "would be lost" in refused("push", "one", "./model", "--force")
    assert "would be lost" in bad("pull", "one", "model", "--force")
    assert tree(copy) == before


def test_a_plot_is_written_over_no_input_and_no_picture_of_others(copy: Path) -> None:
    good(*TRAIN, "-o", "tau-a")
    words = ("evaluate", "model", "tau-a=labelled.csv", "--plot")
    shutil.copy(copy / "labelled.csv", copy / "data.png")
    (copy / "photo.png").write_bytes(b"\x89PNG of somebody")
    before = (copy / "photo.png").read_bytes()
    assert "did not write it" in bad(*words, "photo.png")
    assert "is the input" in bad(
        "evaluate", "model", "tau-a=data.png", *words[3:], "data.png"
    )
    assert "lies in the input" in bad(*words, "model/plot.png")
    assert "no such file" in bad(*words, "nowhere/plot.png")
    assert (copy / "photo.png").read_bytes() == before
    for suffix in ("png", "pdf", "svg"):
        for _ in range(2):  # its own it writes over
            good(*words, f"plot.{suffix}")


def test_the_working_directory_and_mount_points_are_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "here").mkdir()
    monkeypatch.chdir(copy / "here")
    good(*COMPUTE, "../model", "../one.csv", "-o", ".")
    good("verify", ".")
    monkeypatch.chdir(copy)
    with mounted(copy / "volume", "-t", "tmpfs", "tmpfs"):
        good(*TRAIN, "-o", "volume")
        assert len(list((copy / "volume").iterdir())) == 2
        good("apply", "model", "volume", "-o", "applied")
    assert sorted(p.name for p in copy.parent.iterdir()) == ["w"]


def test_a_second_run_with_the_same_output_fails_at_once(copy: Path) -> None:
    script = """
import sys
from kfac_artifacts.places import hold
with hold("out.checkpoint"):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        for words in ((*COMPUTE, "model", "one.csv"), TRAIN):
            said = bad(*words, "-o", "out", "--force")
            assert f"process {other.pid} on" in said
            assert len(said.splitlines()) == 1
        other.kill()
    good(*COMPUTE, "model", "one.csv", "-o", "out")
    assert not (copy / "out.checkpoint").exists()


def test_python_gets_the_same_refusals(copy: Path) -> None:
    network = kfac.load_network("model", device="cpu")
    examples = kfac.load_examples("one.csv", network)
    with pytest.raises(PlaceError, match="exists already"):
        kfac.save_artifact(kfac.load_artifact("one"), "two")
    with pytest.raises(PlaceError, match="would be lost"):
        kfac.save_artifact(
            kfac.load_artifact("one"), "model", recipe="tiny", replace=True
        )
    job = kfac.ComputeOptions(checkpoint="c", every=1)
    with hold("d"):
        kfac.compute(network, examples, count=2, options=job, allow_few=True)
    assert [p.name for p in Path("c").iterdir()] != [".lock"]


def test_every_function_takes_a_path_for_a_name(copy: Path) -> None:
    network = kfac.load_network(Path("model"), device="cpu")
    assert network.base.id == "model"
    examples = kfac.load_examples(Path("one.csv"), network)
    assert examples.description.id == "one.csv"
    kfac.push(Path("one"), Path("registry/one"))  # a path is nothing on the Hub
    kfac.pull(Path("registry/one"), Path("pulled"))


def test_every_function_takes_a_name_for_a_path(copy: Path) -> None:
    artifact = kfac.load_artifact("one", verify=False)
    kfac.save_artifact(artifact, "saved")
    kfac.save_artifact(artifact, "small", recipe="tiny")
    assert all(finding.good for finding in kfac.verify("saved"))
    assert kfac.load_artifact("small").factors
    vector = kfac.TaskVector.load("tau")
    vector.save("tau2")
    kfac.push("one", "./registry/one")
    kfac.pull("registry/one", "pulled")
    assert kfac.ComputeOptions(checkpoint="c").directory == Path("c")


def test_a_push_says_where_it_went_and_what_it_replaced(copy: Path) -> None:
    said = good_err("push", "one", "./registry/a")
    assert "into the local directory registry/a, as kfac-" in said
    assert "tagged" not in said
    good(*COMPUTE, "model", "one.csv", "-o", "newer", "--data-id", "one", "--seed", 1)
    tag = "kfac-" + json.loads(good("push", "one", "./registry/a", "--json"))["tag"][5:]
    assert f"replaced {tag}" in good_err("push", "newer", "./registry/a")
    said = refused("push", "two", "./registry/a")
    assert "another artifact" in said
    assert "of other tasks, one" in said
    good("push", "two", "./registry/a", "--force")


def test_what_looks_like_a_name_on_the_hub_is_said_to_be_a_directory(
    copy: Path,
) -> None:
    said = good_err("push", "one", "owner/name")
    assert "owner/name is written as a local directory" in said
    assert "for the Hub write hf://owner/name" in said
    assert "hf://" not in good_err("push", "two", "owner/other")  # it is there now
    assert "hf://" not in good_err("push", "two", "./another/name")


def refused(*words: str, code: int = 1) -> str:
    """The error of a push, behind what is said of the artifact."""
    from tests.cli.test_artifacts import kfac as run

    result = run(*words)
    assert result.exit_code == code, result.output
    return result.stderr.strip().splitlines()[-1]


def good_err(*words: str) -> str:
    from tests.cli.test_artifacts import kfac as run

    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stderr
