"""Packages whose public names are imported when they are asked for.

Importing torch and transformers takes seconds; reading a table or a header takes none.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def export_lazily(package: str, places: Mapping[str, str]) -> None:
    """Give a package public names that are imported when they are first asked for.

    Args:
        package: Name of the package.
        places: Module, within the package, by public name.
    """
    module = sys.modules[package]
    module.__class__ = _Lazy
    vars(module)["_places"] = dict(places)


class _Lazy(ModuleType):
    """A package of which public names go before submodules that are called the same."""

    _places: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        places = vars(self)["_places"]
        if name not in places:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{self.__name__}.{places[name]}"), name)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # importing a submodule would bind it to a name that may be a function's
        if not (isinstance(value, ModuleType) and name in vars(self)["_places"]):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *vars(self)["_places"]})
