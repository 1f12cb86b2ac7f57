"""What is declared to be needed is what is imported, and the other way round."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = {
    "pillow": "PIL",
    "curvlinops-for-pytorch": "curvlinops",
    "model-signing": "model_signing",
    "dp-accounting": "dp_accounting",
}
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


def inner_imports(file: Path) -> Iterator[str]:
    """What a module imports from inside of another package than its own."""
    package, *rest = file.relative_to(ROOT).parts
    own = rest[0] if package == "kfac_artifacts" else ""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            first, *path = node.module.split(".")
            if first == "kfac_artifacts" and len(path) > 1 and path[0] != own:
                yield node.module


@pytest.mark.parametrize("folder", ["kfac_artifacts", "cli", "benchmarks"])
def test_packages_are_used_by_what_they_export(folder: str) -> None:
    """All but the public names, which say themselves where each of them is."""
    files = [f for f in (ROOT / folder).rglob("*.py") if f.name != "__init__.py"]
    assert {f: [*inner_imports(f)] for f in files if [*inner_imports(f)]} == {}
    assert [*inner_imports(ROOT / "tests/capture/test_layers.py")]


def test_dependencies_are_those_that_are_imported() -> None:
    found = {*imported(ROOT / "kfac_artifacts"), *imported(ROOT / "cli")}
    found -= {*sys.stdlib_module_names, "kfac_artifacts", "kfac_cli"}
    extras = PROJECT["optional-dependencies"]
    names = ("plot", "curvlinops", "sign", "gguf", "dp", "lora")
    optional = declared([each for name in names for each in extras[name]])
    assert found - optional == declared(PROJECT["dependencies"])
    assert declared(extras["plot"]) <= found


def test_developers_have_every_extra_that_make_does_not_install() -> None:
    extras = PROJECT["optional-dependencies"]
    for extra in ("plot", "sign", "gguf", "dp", "lora"):
        assert declared(extras[extra]) <= declared(extras["dev"])
