"""The package as it is imported: at once, whole, and telling what it is."""

import json
import subprocess
import sys

import pytest

import kfac_artifacts as kfac


def fresh(code: str) -> str:
    """Run code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}
    code = (
        f"import sys, kfac_artifacts; print([m for m in {heavy} if m in sys.modules])"
    )
    assert fresh(code).strip() == "set()"


def test_functions_are_not_hidden_by_the_modules_that_hold_them() -> None:
    code = (
        "import json, kfac_artifacts as kfac\n"
        "import kfac_artifacts.merge, kfac_artifacts.train, kfac_artifacts.verify\n"
        "from kfac_artifacts.evaluate import evaluate\n"
        "print(json.dumps({n: callable(getattr(kfac, n)) for n in kfac.__all__}))"
    )
    found = json.loads(fresh(code))
    assert all(found.values()), found
    assert set(found) == set(kfac.__all__)


def test_every_public_name_is_listed() -> None:
    assert set(kfac.__all__) <= set(dir(kfac))
    assert {"load_network", "push"} <= set(dir(kfac))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kfac.nothing
