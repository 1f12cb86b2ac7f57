"""Running single files of other projects, without what they import and do not use."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock


def stand_in(*names: str) -> None:
    """Let anything be imported from some modules."""
    sys.modules |= {name: MagicMock() for name in names}


def package(name: str, path: Path) -> None:
    """Let modules be imported from a folder, without running its ``__init__``."""
    found = ModuleType(name)
    found.__path__ = [str(path)]
    sys.modules[name] = found


def run_file(name: str, path: Path) -> Any:
    """Import a file as a module of some name."""
    spec: Any = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
