"""``kfac compute``, ``inspect``, ``verify`` and ``merge``, from files to files."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.commands import bad, good, kfac
from tests.computed import COMPUTE
from tests.models import WORDS, SavedModel


def texts(path: Path, count: int = 6, shift: int = 0) -> Path:
    lines = [
        " ".join(WORDS[(3 * i + j + shift) % len(WORDS)] for j in range(2 + i % 3))
        for i in range(count)
    ]
    path.write_text("\n".join(["text", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, saved_model: SavedModel
) -> tuple[Path, Path]:
    """Two artifacts of one model, their data, and the model."""
    root = tmp_path_factory.mktemp("made")
    model = saved_model("bert")
    for i, name in enumerate(("one", "two")):
        data = texts(root / f"{name}.csv", 6 + i, shift=i)
        good(*COMPUTE, model, data, "-o", root / name, "--data-id", name)
    return root, model


def test_compute_ends_with_a_summary(made: tuple[Path, Path], tmp_path: Path) -> None:
    root, model = made
    said = good(*COMPUTE, model, root / "one.csv", "-o", tmp_path / "a", "--draws", 2)
    assert "modules" in said.splitlines()[-1]
    summary = json.loads(
        good(*COMPUTE, model, root / "one.csv", "-o", tmp_path / "b", "--json")
    )
    assert summary["examples"] == 6
    assert summary["bytes"] > 0
    assert summary["seconds"] > 0


def test_compute_again_gives_the_same_bytes(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, model = made
    options = ("--data-id", "one", "--batch-size", 6)
    for name in ("a", "b"):
        good(*COMPUTE, model, root / "one.csv", "-o", tmp_path / name, *options)
    for file in ("kfac.json", "factors.safetensors"):
        one, other = (tmp_path / name / file for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "vit", "clip"])
def test_compute_takes_every_kind_of_model(
    tmp_path: Path, saved_model: SavedModel, kind: str
) -> None:
    if kind in ("vit", "clip"):
        data = tmp_path / "images"
        data.mkdir()
        for i in range(3):
            Image.new("RGB", (9, 8), (80 * i, 20, 200)).save(data / f"{i}.png")
    else:
        data = texts(tmp_path / "texts.csv")
    good(*COMPUTE, saved_model(kind), data, "-o", tmp_path / "a")
    assert "BAD" not in good("verify", tmp_path / "a", "--model", saved_model(kind))


def test_inspect_lists_modules_without_reading_tensors(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = made
    shutil.copytree(root / "one", tmp_path / "a")
    file = tmp_path / "a" / "factors.safetensors"
    content = file.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes(content[:length] + bytes(len(content) - length))
    found = json.loads(good("inspect", tmp_path / "a", "--json"))
    assert found == json.loads(good("inspect", root / "one", "--json"))
    names = [module["name"] for module in found["modules"]]
    assert "encoder.layer.0.attention.self.query" in names
    assert "embeddings.word_embeddings" in good("inspect", tmp_path / "a")


def test_verify_speaks_by_lines_and_exit_code(
    made: tuple[Path, Path], tmp_path: Path, saved_model: SavedModel
) -> None:
    root, model = made
    assert "BAD" not in good("verify", root / "one", "--model", model)
    other = kfac("verify", root / "one", "--model", saved_model("vit"))
    assert other.exit_code == 3
    assert other.stdout.count("BAD") > 1
    shutil.copytree(root / "one", tmp_path / "a")
    with (tmp_path / "a" / "factors.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    damaged = kfac("verify", tmp_path / "a", "--json")
    assert damaged.exit_code == 3
    assert not all(finding["good"] for finding in json.loads(damaged.stdout))


def test_merge_prints_weights_and_error_and_excludes(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = made
    said = good("merge", root / "one", root / "two", "-o", tmp_path / "total")
    assert "0.4615" in said
    assert "0.5385" in said
    assert "relative error of the merge" in said
    others = good(
        "merge",
        tmp_path / "total",
        "--exclude",
        root / "one",
        "-o",
        tmp_path / "others",
    )
    assert "1 two" in others
    result = json.loads(
        good("merge", root / "one", root / "two", "-o", tmp_path / "t2", "--json")
    )
    assert result["tasks"] == 2
    assert result["merge_errors"]


def test_what_is_there_is_replaced_only_by_force(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, model = made
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    for force in ((), ("--force",)):
        where = ("-o", tmp_path / "a", *force)
        message = bad(*COMPUTE, model, root / "one.csv", *where)
        assert "exists already" in message
        assert "mine.txt" in message
    assert (tmp_path / "a" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        ("nowhere/nothing", "one.csv", (), "nowhere/nothing"),
        ("{model}", "none.csv", (), "none.csv"),
        ("{model}", "one.csv", ("--text-column", "body"), "body"),
        ("{model}", "empty.csv", (), "empty.csv"),
        ("{model}", "single.csv", (), "at least 2"),
        ("{model}", "one.csv", ("--modules", "decoder.*"), "decoder.*"),
        ("{model}", "one.csv", ("--output-map", "magic"), "magic"),
        ("{model}", "one.csv", ("--device", "tpu9"), "tpu9"),
        ("{nan}", "one.csv", (), "finite"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_left(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    data: str,
    options: tuple[Any, ...],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root, real = made
    shutil.copy(root / "one.csv", tmp_path)
    (tmp_path / "empty.csv").write_text("text\n")
    texts(tmp_path / "single.csv", 1)
    if model == "{nan}":
        shutil.copytree(real, tmp_path / "nan")
        file = tmp_path / "nan" / "model.safetensors"
        weights = load_file(file)
        weights[sorted(weights)[0]].view(-1)[0] = float("nan")
        save_file(weights, file, {"format": "pt"})
    named = model.format(model=real, nan=tmp_path / "nan")
    before = sorted(tmp_path.iterdir())
    said = bad(*COMPUTE, named, tmp_path / data, "-o", tmp_path / "out", *options)
    assert message in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_cotangents_that_contradict_are_a_usage_error(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, model = made
    options = ("--cotangents", "exact", "--draws", 2)
    said = bad(
        *COMPUTE, model, root / "one.csv", "-o", tmp_path / "a", *options, code=2
    )
    assert "--draws" in said


def test_artifacts_of_other_models_are_refused_with_all_differences(
    made: tuple[Path, Path], tmp_path: Path, saved_model: SavedModel
) -> None:
    root, _ = made
    other = tmp_path / "other"
    good(*COMPUTE, saved_model("t5"), root / "two.csv", "-o", other)
    said = bad("merge", root / "one", other, "-o", tmp_path / "out")
    assert "base model" in said or "covering" in said
    assert not (tmp_path / "out").exists()


def test_what_is_no_artifact_has_exit_code_3(tmp_path: Path) -> None:
    assert "no kfac.json" in bad("inspect", tmp_path, code=3)
    assert "no kfac.json" in bad("verify", tmp_path, code=3)


def run(words: tuple[Any, ...], **options: Any) -> CompletedProcess[str]:
    """Run the command in a process of its own."""
    code = "from kfac_cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )


def test_a_reader_that_has_seen_enough_is_no_error(made: tuple[Path, Path]) -> None:
    root, _ = made
    code = "from kfac_cli.main import main; main()"
    command = f"{sys.executable} -c '{code}' inspect {root / 'one'} | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_a_full_disk_is_one_line_and_leaves_nothing(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    """A limit on the size of files fails like a disk that has no room.

    Python, too, would keep of what it compiles as much as fits.
    """
    root, _ = made

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    words = ("merge", root / "one", root / "two", "-o", tmp_path / "out")
    nothing_compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = run(words, preexec_fn=limit, env=nothing_compiled)
    assert done.returncode == 1
    told = done.stderr.strip().splitlines()
    assert [line for line in told if not line.startswith("add ")] == told[-1:]
    assert "Error: " in told[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_directory_is_one_line(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = made
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # root may write anywhere but where the system itself makes the files
    place = Path("/proc") if os.geteuid() == 0 else tmp_path
    try:
        said = bad("merge", root / "one", root / "two", "-o", place / "out")
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert "denied" in said or "no such file" in said
    assert len(said.splitlines()) == 1


def test_a_place_under_a_file_is_one_line(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = made
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out"
    said = bad("merge", root / "one", root / "two", "-o", place)
    assert "not a directory" in said
    assert (tmp_path / "file").is_file()
