"""What is declared to be needed is what is imported, and the other way round."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = {"pillow": "PIL", "curvlinops-for-pytorch": "curvlinops"}
"""Modules that are not called as their distribution."""


def declared(requirements: list[str]) -> set[str]:
    """Modules of requirements, those of this package's own extras left out."""
    names = [re.split(r"[\s\[<>=!~;]", r, maxsplit=1)[0] for r in requirements]
    return {MODULES.get(n, n) for n in names if n != PROJECT["name"]}


def imported(package: Path) -> Iterator[str]:
    """Modules that a package imports anywhere, its own and Python's left out."""
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            yield from {name.split(".")[0] for name in names}


def test_dependencies_are_those_that_are_imported() -> None:
    found = {*imported(ROOT / "kfac_artifacts"), *imported(ROOT / "cli")}
    found -= {*sys.stdlib_module_names, "kfac_artifacts", "kfac_cli"}
    extras = PROJECT["optional-dependencies"]
    optional = declared([*extras["plot"], *extras["curvlinops"]])
    assert found - optional == declared(PROJECT["dependencies"])
    assert declared(extras["plot"]) <= found


def test_developers_have_every_extra_that_make_does_not_install() -> None:
    extras = PROJECT["optional-dependencies"]
    assert declared(extras["plot"]) <= declared(extras["dev"])
