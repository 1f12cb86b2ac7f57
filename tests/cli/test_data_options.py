"""What the commands say of the data that they read, and how early they look at them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import Result

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.train import check_names
from kfac_cli.tasks import of_task, split_pair
from tests.commands import kfac
from tests.models import SavedModel

TEXTS = ["the cat sits", "a dog sits", "the black cat", "a black dog"]
KINDS = ["cat", "dog", "cat", "dog"]


def table(path: Path, header: str, kinds: Sequence[str] = KINDS) -> Path:
    mark = ";" if ";" in header else ","
    rows = [f"{t}{mark}{k}" for t, k in zip(TEXTS, kinds, strict=True)]
    path.write_text("\n".join([header, "", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, saved_model: SavedModel
) -> tuple[Path, Result]:
    """A task vector whose name has an equals sign, and what was said of its data."""
    folder = tmp_path_factory.mktemp("trained")
    data = table(folder / "t.csv", "text;label")
    result = kfac(
        *("train", saved_model("bert"), data, "-o", folder / "lr=0.1", "--steps", 1),
        *("--head", "prototypes", "--eval-data", data, "--json"),
    )
    assert result.exit_code == 0, result.output
    return folder / "lr=0.1", result


def test_compute_takes_no_cell_for_a_name_of_a_column(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    data = tmp_path / "t.csv"
    data.write_text("secret text 0\nsecret text 1\nsecret text 2\n")
    start = ("compute", saved_model("bert"), data, "-o", tmp_path / "o")
    refused = kfac(*start)
    assert refused.exit_code == 1
    assert "--text-column" in refused.output
    assert "--no-header" in refused.output
    assert "secret" not in refused.output
    assert not (tmp_path / "o").exists()
    done = kfac(*start, "--no-header", "--text-column", 1, "--json", "--allow-few")
    assert done.exit_code == 0, done.output
    assert "t.csv: 3 rows read, column '1', 3 used\n" in done.stderr
    assert json.loads(done.stdout)["read"]["rows"] == 3
    manifest = (tmp_path / "o" / "kfac.json").read_text()
    assert '"columns":["1"]' in manifest.replace(" ", "").replace("\n", "")
    assert "secret" not in manifest


def test_train_and_evaluate_say_what_they_read_of_every_table(
    tmp_path: Path, trained: tuple[Path, Result], saved_model: SavedModel
) -> None:
    tau, result = trained
    said = (
        "t.csv: 4 rows read (1 blank line skipped, divided by semicolon), "
        "column 'text', labels of 'label' (2 classes), 4 used\n"
    )
    assert result.stderr.count(said) == 2
    assert json.loads(result.stdout)["read"]["notes"] == ["divided by semicolon"]
    other = tmp_path / "other"
    other.symlink_to(tau)
    plain = table(tmp_path / "a=b.csv", "text,label")
    own = table(tmp_path / "own.csv", "phrase,intent")
    done = kfac(
        *("evaluate", saved_model("bert"), f"{tau}={plain}", f"{other}={own}"),
        *("--text-column", "other=phrase", "--label-column", "other=intent", "--json"),
    )
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)["read"]
    assert (first["columns"], first["label_column"]) == (["text"], "label")
    assert (second["columns"], second["label_column"]) == (["phrase"], "intent")
    assert "own.csv: 4 rows read (1 blank line skipped), column 'phrase'" in done.stderr


def test_fidelity_says_how_many_rows_it_uses(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    model, data = saved_model("bert"), table(tmp_path / "t.csv", "text,label")
    computed = kfac("compute", model, data, "-o", tmp_path / "o", "--allow-few")
    assert computed.exit_code == 0, computed.output
    other = tmp_path / "other.tsv"
    other.write_text("text\n" + "".join(f"{text} a cat\n" for text in TEXTS))
    more = ("--directions-data", data, "--directions", 1)
    done = kfac(
        *("fidelity", tmp_path / "o", model, other, "--examples", 3, *more, "--json")
    )
    assert done.exit_code == 0, done.output
    assert "other.tsv: 4 rows read, column 'text', 3 used\n" in done.stderr
    assert "t.csv: 4 rows read (1 blank line skipped), column 'text'\n" in done.stderr
    said = json.loads(done.stdout)
    assert (said["read"]["rows"], said["read_for_directions"]["data"]) == (4, "t.csv")


COMMANDS = [
    ["compute", "M", "missing.csv", "-o", "o"],
    ["compute", "M", "t.csv", "-o", "o", "--text-column", "txt"],
    ["compute", "./missing", "t.csv", "-o", "o"],
    ["train", "M", "t.csv", "-o", "o", "--label-column", "kind"],
    ["train", "M", "t.csv", "-o", "o", "--eval-data", "missing.csv"],
    ["fidelity", "o", "M", "t.csv", "--delimiter", ",;"],
    ["fidelity", "o", "M", "t.csv", "--directions-data", "missing.csv"],
    ["evaluate", "M", "tau=t.csv", "--label-column", "tau=kind"],
    ["evaluate", "M", "nothing=t.csv"],
]


def test_a_mistake_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "M").mkdir()
    (tmp_path / "tau").mkdir()
    (tmp_path / "tau" / "task_vector.json").write_text("{}")
    table(tmp_path / "t.csv", "text,label")
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from kfac_cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(main, words)\n"
        "    assert done.exit_code in (1, 3), (words, done.output)\n"
        "    assert done.output.startswith('Error: '), done.output\n"
        "    slow = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "    assert not slow, (words, slow)\n"
        "    print(done.output, end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(COMMANDS)
    for line, words in zip(lines, ("'missing.csv'", "(--text-column)"), strict=False):
        assert words in line
    assert "(--label-column)" in lines[3]


def test_a_pair_is_split_where_the_task_vector_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/lr=0.001", "b", "b=c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "task_vector.json").touch()
    (tmp_path / "d").touch()
    assert split_pair("a/lr=0.001=t.csv") == ("a/lr=0.001", "t.csv")
    assert split_pair("a/lr=0.001=x=y.csv") == ("a/lr=0.001", "x=y.csv")
    assert split_pair("b=t=1.csv") == ("b", "t=1.csv")
    assert split_pair("b=c=d") == ("b=c", "d")  # there is no file c=d
    for wrong in ("tau", "=data", "tau="):
        with pytest.raises(click.UsageError, match="is not TAU=DATA"):
            split_pair(wrong)
    for wrong in ("b=c=t", "a=t.csv", "a/lr=0.002=t.csv"):
        with pytest.raises(click.ClickException, match=r"task_vector\.json"):
            split_pair(wrong)


def test_a_value_is_for_one_task_or_for_all() -> None:
    tasks = [("x/a", "a"), ("x/b", "b")]
    values = ["a=q", "x/a=p", "text", "c=d"]
    assert of_task(values, tasks[0], tasks) == ["p", "q"]
    assert of_task(values, tasks[1], tasks) == ["text", "c=d"]


@pytest.mark.parametrize("kinds", ["0 1", "01 007", "1.0 -2", "3f2a91c0 0b7d44aa"])
def test_numbers_are_no_class_texts_unless_it_is_said(
    tmp_path: Path, saved_model: SavedModel, kinds: str
) -> None:
    with pytest.raises(SettingsError, match="--head prototypes") as caught:
        check_names(kinds.split())
    assert not any(kind in str(caught.value) for kind in kinds.split()[1:])
    check_names([*kinds.split(), "cat"])
    if kinds == "0 1":
        data = table(tmp_path / "t.csv", "text,label", kinds.split() * 2)
        start = ("train", saved_model("bert"), data, "-o", tmp_path / "o", "--steps", 1)
        refused = kfac(*start)
        assert refused.exit_code == 1
        assert "--class-texts" in refused.stderr
        assert kfac(*start, "--head", "prototypes").exit_code == 0


def test_too_few_rows_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    """It could not be loaded: there is nothing in it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    data = tmp_path / "t.csv"
    data.write_text("text\n" + "".join(f"text {i}\n" for i in range(63)))
    start = ("compute", tmp_path / "model", data, "-o", tmp_path / "o")
    refused = kfac(*start)
    assert refused.exit_code == 1
    assert "63 examples: what is computed of fewer than 64" in refused.output
    assert "--allow-few" in refused.output
    assert "63 examples:" not in kfac(*start, "--allow-few").output
    with data.open("a") as file:
        file.write("text 63\n")
    assert "examples:" not in kfac(*start).output
    assert "12 examples:" in kfac(*start, "--examples", 12).output
