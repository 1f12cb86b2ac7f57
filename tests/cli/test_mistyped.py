"""What is mistyped is refused in one line, before anything slow is imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
RUN = """
import json, sys
from click.testing import CliRunner
from kfac_cli.main import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    slow = [name for name in ("torch", "transformers") if name in sys.modules]
    print(json.dumps([done.exit_code, done.output, repr(done.exception), slow]))
"""
NO_ARTIFACT = "nope is no artifact: there is no such directory"
NO_VECTOR = "nope is no task vector: there is no task_vector.json in it"
NO_MODEL = "model './nope' is neither a directory nor a Hub id"
NO_FILE = "there is no file or folder 'nope.csv'"
NO_RECIPE = "there is no recipe 'nonsense'"
TAKEN = "taken exists already"
BROKEN = "is not valid JSON"
PLOT = "cannot plot to x.nope"
NO_PLACE = "'ftp://a' is no place for an artifact"
MISTYPED = {
    "inspect nope": (3, NO_ARTIFACT),
    "inspect broken": (3, BROKEN),
    "merge nope -o x": (3, NO_ARTIFACT),
    "merge good broken -o x": (3, BROKEN),
    "merge good --exclude nope -o x": (3, NO_ARTIFACT),
    "merge good -o taken": (1, TAKEN),
    "merge good --recipe nonsense -o x": (1, NO_RECIPE),
    "merge good --recipe int8 --storage float16 -o x": (2, "drop --storage"),
    "join nope -o x": (3, NO_ARTIFACT),
    "join good -o taken": (1, TAKEN),
    "verify nope": (3, NO_ARTIFACT),
    "verify broken": (3, BROKEN),
    "verify good --model ./nope": (1, NO_MODEL),
    "compress nope -o x": (3, NO_ARTIFACT),
    "compress good --recipe nonsense -o x": (1, NO_RECIPE),
    "compress good --recipe low-rank-0 -o x": (1, "the rank must be at least 1"),
    "compress good --recipe block-8+int9 -o x": (1, "there is no storage 'int9'"),
    "compress good --recipe small --max-size 1MB -o x": (2, "give one of"),
    "compress good --task-vector nope -o x": (3, NO_VECTOR),
    "compress good -o taken": (1, TAKEN),
    "train M t.csv --curvature nope -o x": (3, NO_ARTIFACT),
    "train M t.csv --curvature good --exclude-own nope -o x": (3, NO_ARTIFACT),
    "train M t.csv --class-texts nope -o x": (2, "'nope' does not exist"),
    "predict M nope t.csv": (3, NO_VECTOR),
    "predict M nope.csv": (1, NO_FILE),
    "predict ./nope t.csv": (1, NO_MODEL),
    "predict M t.csv -o x.nope": (1, "cannot write predictions to x.nope"),
    "predict M t.csv --copy nope": (1, "has no column 'nope'"),
    "evaluate M nope=t.csv --class-texts nope": (2, "'nope' does not exist"),
    "train M nope.csv -o x": (1, NO_FILE),
    "train M t.csv --eval-data nope.csv -o x": (1, NO_FILE),
    "train M t.csv --label-column nope -o x": (1, "has no column 'nope'"),
    "train ./nope t.csv -o x": (1, NO_MODEL),
    "train M t.csv -o taken": (1, TAKEN),
    "apply M nope -o x": (3, NO_VECTOR),
    "apply M good -o x": (3, "good is no task vector"),
    "apply ./nope nope -o x": (1, NO_MODEL),
    "push nope hf://a/b": (3, NO_ARTIFACT),
    "push nope ./x": (3, NO_ARTIFACT),
    "push good ftp://a": (2, NO_PLACE),
    "pull nope x": (1, "there is no artifact at nope"),
    "pull ftp://a x": (2, NO_PLACE),
    "pull hf://a x": (2, "'hf://a' is no Hub address"),
    "pull good taken": (1, TAKEN),
    "compute M t.csv --recipe nonsense -o x": (1, NO_RECIPE),
    "compute ./nope t.csv -o x": (1, NO_MODEL),
    "compute M nope.csv -o x": (1, NO_FILE),
    "compute M t.csv --text-column nope -o x": (1, "has no column 'nope'"),
    "compute M t.csv -o taken": (1, TAKEN),
    "plan ./nope": (1, NO_MODEL),
    "evaluate M nope=t.csv": (3, "no task vector at 'nope'"),
    "fidelity nope M t.csv": (3, NO_ARTIFACT),
    "fidelity good M t.csv --task-vector nope": (3, NO_VECTOR),
    "fidelity good M t.csv --plot x.nope": (1, PLOT),
    "fidelity good M nope.csv": (1, NO_FILE),
    "fidelity good ./nope t.csv": (1, NO_MODEL),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("typing")
    shutil.copytree(VALID / "shared-input", root / "good")
    shutil.copytree(VALID / "shared-input", root / "broken")
    (root / "broken/kfac.json").write_text("{")
    (root / "M").mkdir()
    (root / "taken").mkdir()
    (root / "taken/mine").write_text("kept")
    (root / "t.csv").write_text("text,label\na b,x\nc d,y\n")
    return root


@pytest.fixture(scope="module")
def said(place: Path) -> dict[str, tuple[int, str, str, list[str]]]:
    """What every command says, all in one process that has imported nothing before."""
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([words.split() for words in MISTYPED]),
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert sorted(place.rglob("*")) == before
    return dict(zip(MISTYPED, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("words", MISTYPED)
def test_what_is_mistyped_is_refused_at_once(
    said: dict[str, list[Any]], words: str
) -> None:
    code, output, exception, slow = said[words]
    expected, message = MISTYPED[words]
    assert (code, exception) == (expected, f"SystemExit({expected})")
    assert message in output
    assert slow == []
    if code != 2:
        assert len(output.splitlines()) == 1


def test_pulling_imports_nothing_slow(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([["pull", "good", "fetched"]]),
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
    )
    code, _, _, slow = json.loads(done.stdout)
    assert (code, slow) == (0, [])
    pulled = (place / "fetched/factors.safetensors").read_bytes()
    assert pulled == (place / "good/factors.safetensors").read_bytes()
