"""While tests run, modules that speak of shapes are checked against them, and types.

Wrapping every function of the package took two thirds of the time of the tests of
registries, for what mypy proves: modules without a shape in them are left to it.
"""

from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

PACKAGE = "kfac_artifacts"


def speaking_of_shapes() -> list[str]:
    """Name the modules that import jaxtyping; nothing is imported for that."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    return [
        ".".join(file.relative_to(root.parent).with_suffix("").parts)
        for file in sorted(root.rglob("*.py"))
        if "jaxtyping" in file.read_text(encoding="utf-8")
    ]


install_import_hook(speaking_of_shapes(), "beartype.beartype")
