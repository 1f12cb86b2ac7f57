"""The command as a whole: quick, documented, one line for what goes wrong."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from kfac_cli.main import main


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_an_example(name):
    text = CliRunner().invoke(main, [name, "--help"]).output
    assert "\n  Example:\n" in text
    assert "\\b" not in text


def test_help_imports_neither_torch_nor_numpy():
    code = (
        "import sys, kfac_cli.main\n"
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_package():
    assert "0.1.0" in CliRunner().invoke(main, ["--version"]).output


def test_importing_the_package_leaves_transformers_for_later():
    code = "import sys, kfac_artifacts; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lazy_names_are_there_and_others_are_not():
    import kfac_artifacts

    assert callable(kfac_artifacts.load_network)
    assert callable(kfac_artifacts.pull)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kfac_artifacts.nothing  # noqa: B018
