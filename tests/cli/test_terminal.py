"""What reaches a terminal: legible in every encoding, and nothing that steers it."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kfac_cli.main import main
from kfac_cli.terminal import Readable, harmless, spelled
from tests.commands import kfac

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
NASTY = [
    "\x1b[31m",
    "\x07",
    "\x9b31m",
    "\u202e",
    "\u200b",
    "\r",
    "\udc9b",
    "\U000e0041",
]
ENCODINGS = ["ascii", "cp1252", "utf-8"]


def run(encoding: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kfac_artifacts", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_verify_succeeds_in_every_encoding(encoding: str) -> None:
    done = run(encoding, "verify", VALID / "unicode-names")
    assert (done.returncode, done.stderr) == (0, b"")
    sign = "λ" if encoding == "utf-8" else "lambda"
    assert f"smallest {sign}_min / {sign}_max is" in done.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", [None, *main.commands])
def test_every_help_is_legible(encoding: str, name: str | None) -> None:
    text = kfac(*([name] if name else []), "--help").output
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    Readable(stream).write(text)
    stream.seek(0)
    shown = stream.read()
    assert "\\u" not in shown
    assert shown.isascii() or encoding != "ascii"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_json_stays_the_same_data(encoding: str) -> None:
    found = [
        run(e, "inspect", VALID / "unicode-names", "--json")
        for e in (encoding, "utf-8")
    ]
    ours, wide = (json.loads(done.stdout.decode("utf-8", "replace")) for done in found)
    assert ours == wide


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_that_steers_a_terminal_is_written(nasty: str) -> None:
    stream = io.StringIO()
    Readable(stream).write(f"a{nasty}b\n\tc")
    shown = stream.getvalue()
    assert nasty not in shown
    assert shown.startswith("a\\")
    assert shown.endswith("b\n\tc")
    if nasty > "\x7f":
        assert json.loads(f'"{harmless(nasty)}"') == nasty


def test_a_bar_of_progress_still_moves() -> None:
    stream = io.StringIO()
    for text in ("\r 10%", "\n", "\x1b[A", "\n\x1b[A"):
        Readable(stream).write(text)
    assert stream.getvalue() == "\r 10%\n\x1b[A\n\x1b[A"


def test_signs_are_spelled_out_and_others_escaped() -> None:
    assert spelled("λ τ² × α…", "ascii") == "lambda tau^2 x alpha..."
    assert spelled("λ τ² × α…", "cp1252") == "lambda tau² × alpha…"
    assert spelled("é 文", "ascii") == "e \\u6587"


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """Change a tensor file and mend the manifest's size of it."""
    shutil.copytree(VALID / "dense-float32", path)
    file = path / "factors.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(old, new)
    assert header != content[8 : 8 + length]
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    file.write_bytes(content)
    manifest = json.loads((path / "kfac.json").read_text())
    manifest["files"][file.name]["size"] = len(content)
    (path / "kfac.json").write_text(json.dumps(manifest))
    return path


def test_a_tensor_with_an_escape_sequence_in_its_name_is_refused_harmlessly(
    tmp_path: Path,
) -> None:
    """The name of a broken tensor came into the message as it was."""
    header = json.loads(
        (VALID / "dense-float32/factors.safetensors").read_bytes()[8:].split(b"}}")[0]
        + b"}}"
    )
    name = next(key for key in header if key != "__metadata__")
    spoiled = f'"{name}\\u001b]0;owned\\u0007":{{"dtype":"X"'.encode()
    path = changed(tmp_path / "a", f'"{name}":{{"dtype":"F32"'.encode(), spoiled)
    result = kfac("inspect", path)
    assert result.exit_code == 3
    assert "\x1b" not in result.output + result.stderr
    assert "\\x1b]0;owned\\x07" in result.output + result.stderr


def test_a_configuration_that_steers_the_terminal_is_shown_escaped(
    tmp_path: Path,
) -> None:
    shutil.copytree(VALID / "part-1", tmp_path / "a")
    file = tmp_path / "a/kfac.json"
    manifest = json.loads(file.read_text())
    manifest["estimator"]["configuration"] = {"x": "\x1b[2J\u202e"}
    file.write_text(json.dumps(manifest))
    for options in ([], ["--json"]):
        done = kfac("inspect", tmp_path / "a", *options)
        assert done.exit_code == 0
        assert "\x1b" not in done.output
        assert "\u202e" not in done.output


def test_the_package_runs_as_a_module() -> None:
    done = run("utf-8", "--version")
    assert done.returncode == 0
    assert b"version" in done.stdout
