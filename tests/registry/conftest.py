"""Small artifacts for registries."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kfac_artifacts.compress import save_artifact
from tests.artifacts import artifact

Made = Callable[[int], Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Write the artifact of the task ``dataN``, once."""

    def make(number: int) -> Path:
        place = tmp_path / f"data{number}"
        if not place.exists():
            save_artifact(artifact(number, 100 + number), place, storage="float32")
        return place

    return make
