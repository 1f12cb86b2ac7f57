"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import SAVED_MODELS


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the directory of a tiny model, written once: bert, t5, gpt2, vit or clip.

    Tests must not change it; those that would call ``models.save_tiny_bert`` and so on.
    """
    root = tmp_path_factory.mktemp("models")

    def directory(name: str) -> Path:
        path: Path = root / name
        return path if path.exists() else SAVED_MODELS[name](path)

    return directory
