"""What docstrings show with ``>>>`` is what happens."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import kfac_artifacts

PACKAGE = Path(kfac_artifacts.__file__).parent
WITH_EXAMPLES = [p for p in sorted(PACKAGE.rglob("*.py")) if ">>> " in p.read_text()]
STRUCTURES = {"dense", "diagonal", "block_diagonal", "low_rank", "pruned"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", [module_name(path) for path in WITH_EXAMPLES])
def test_examples_of_docstrings_give_what_they_say(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_structure_has_an_example() -> None:
    shown = {path.stem for path in WITH_EXAMPLES if path.parent.name == "factors"}
    assert shown >= STRUCTURES
