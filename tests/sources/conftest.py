"""Fixtures of the tests of sources."""

import logging
from collections.abc import Iterator

import pytest

from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_network
from tests.models import SavedModel


@pytest.fixture(scope="module")
def bert(saved_model: SavedModel) -> Network:
    return load_network(str(saved_model("bert")))


@pytest.fixture(scope="module")
def clip(saved_model: SavedModel) -> Network:
    return load_network(str(saved_model("clip")))


@pytest.fixture
def calm() -> Iterator[None]:
    """Nothing of other libraries is logged."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)
