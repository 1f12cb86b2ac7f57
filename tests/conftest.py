"""Fixtures that several test files share."""

from pathlib import Path

import pytest

from tests import checked_shapes  # noqa: F401 - before what it checks
from tests.models import SAVED_MODELS, SavedModel
from tests.running import PATIENCE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with a mark more time than others."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("slow", "processes")):
            item.add_marker(pytest.mark.timeout(2 * PATIENCE))


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    """Give the directory of a tiny model, written once: bert, t5, gpt2, vit or clip.

    Tests must not change it; those that would call ``models.save_tiny_bert`` and so on.
    """
    root = tmp_path_factory.mktemp("models")

    def directory(name: str) -> Path:
        path: Path = root / name
        return path if path.exists() else SAVED_MODELS[name](path)

    return directory
