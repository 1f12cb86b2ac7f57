"""The command as a whole: quick, documented, one line for what goes wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kfac_cli import console
from kfac_cli.main import main
from kfac_cli.parameters import Size
from tests.commands import kfac

commands = main.commands


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_an_example(name: str) -> None:
    text = kfac(name, "--help").output
    assert "\n  Example:\n" in text
    assert "\\b" not in text


def test_the_list_of_commands_cuts_no_sentence() -> None:
    text = kfac("--help").output
    lines = [x for x in text.splitlines() if x.split()[:1] and x.split()[0] in commands]
    assert len(lines) == len(commands)
    for line in lines:
        assert line.endswith("."), line
        assert "..." not in line
        assert line.count("(") == line.count(")"), line


def test_a_bar_is_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress("computing", 8, "examples") as advance:
        advance(2)
        advance(3, "loss 0.5")
    printed = capsys.readouterr()
    assert printed.out == ""
    first, second = printed.err.splitlines()
    assert first.startswith("computing: 2 of 8 examples, about")
    assert second.startswith("computing: 5 of 8 examples, about")
    assert second.endswith("loss 0.5")


def test_short_work_is_done_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("computing", 8, "examples") as advance:
        advance(8)
    assert capsys.readouterr().err == ""


def test_a_process_that_does_not_report_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress("computing", 8, "examples", shown=False) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["plan ./mo", "compute model ./tick", "push a ./re"])
def test_the_shell_completes_models_and_data_as_files(words: str) -> None:
    line = f"kfac {words}"
    variables = {
        "_KFAC_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    found = CliRunner().invoke(main, prog_name="kfac", env=variables)
    assert found.output.startswith("file,"), found.output


@pytest.mark.parametrize(("text", "count"), [("20MB", 20 * 10**6), ("1.5 kb", 1500)])
def test_sizes_are_read(text: str, count: int) -> None:
    assert Size().convert(text, None, None) == count


@pytest.mark.parametrize("text", ["20", "20 MiB", "-1MB", "MB", "1e3B"])
def test_a_size_without_a_known_unit_is_refused_at_once(text: str) -> None:
    done = kfac("compress", "a", "-o", "b", f"--max-size={text}")
    assert done.exit_code == 2
    assert "write for example 20MB" in done.output


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, kfac_cli.main\n"
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_package() -> None:
    assert "0.1.0" in kfac("--version").output


def test_importing_the_package_leaves_transformers_for_later() -> None:
    code = "import sys, kfac_artifacts; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lazy_names_are_there_and_others_are_not() -> None:
    import kfac_artifacts

    assert callable(kfac_artifacts.load_network)
    assert callable(kfac_artifacts.pull)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kfac_artifacts.nothing  # type: ignore[attr-defined]


def test_with_kfac_debug_an_error_is_raised_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kfac_artifacts.errors import FormatError

    words = ["inspect", str(tmp_path)]
    assert kfac(*words).exit_code == 3
    monkeypatch.setenv("KFAC_DEBUG", "1")
    assert isinstance(kfac(*words).exception, FormatError)
    assert "KFAC_DEBUG=1" in kfac("--help").output


def test_a_header_is_shown_without_what_takes_long_to_import() -> None:
    """Without torch, and with rich only where a table is printed."""
    vector = Path(__file__).parents[2] / "spec/vectors/valid/dense-float32"
    code = (
        "import sys; from kfac_cli.main import main\n"
        "assert 'rich' not in sys.modules\n"
        "main(['inspect', sys.argv[1]], standalone_mode=False)\n"
        "slow = [n for n in ('torch', 'numpy', 'transformers') if n in sys.modules]\n"
        "assert len(sys.modules) < 450, len(sys.modules)\n"  # few, whatever they are
        "sys.exit(bool(slow))"
    )
    subprocess.run([sys.executable, "-c", code, str(vector)], check=True)
