"""Packages whose public names are imported when they are asked for.

Importing torch and transformers takes seconds; reading a table or a header takes none.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, TypeGuard, final

from kfac_artifacts.errors import SettingsError


def export_lazily(package: str) -> None:
    """Import the public names of a package when they are first asked for.

    The table is what type checkers read: the package's own imports of the form ``from
    package.module import Name as Name`` under ``if TYPE_CHECKING:``.

    Args:
        package: Name of the package.
    """
    module = sys.modules[package]
    blocks = [n for n in ast.parse(inspect.getsource(module)).body if _is_typing(n)]
    places = {
        name.name: statement.module or ""
        for block in blocks
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
    }
    module.__class__ = _Lazy
    vars(module).update(_places=places, __all__=sorted(places))


def _is_typing(node: ast.stmt) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


class _Lazy(ModuleType):
    """A package of which public names go before submodules that are called the same."""

    _places: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        places = vars(self)["_places"]
        if name not in places:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(places[name]), name)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # importing a submodule would bind it to a name that may be a function's
        if not (isinstance(value, ModuleType) and name in vars(self)["_places"]):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *vars(self)["_places"]})


@final
class Variants(Mapping[str, Any]):
    """Variants of one kind by name, each imported when it is asked for.

    Args:
        kind: What they are, for messages: ``estimator``.
        places: ``module:name`` within this package, by the name that people write.
    """

    def __init__(self, kind: str, places: Mapping[str, str]) -> None:
        self.kind = kind
        self._places = dict(places)

    def __getitem__(self, name: str) -> Any:
        """Import a variant.

        Args:
            name: What people call it.

        Returns:
            What stands at its place.

        Raises:
            SettingsError: If there is none of that name.
        """
        if name not in self._places:
            raise SettingsError(
                f"there is no {self.kind} {name!r}; choose from {tuple(self._places)}"
            )
        module, _, attribute = self._places[name].partition(":")
        return getattr(import_module(f"{__package__}.{module}"), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
