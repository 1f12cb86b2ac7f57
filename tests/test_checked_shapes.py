"""Shapes are checked while tests run."""

import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from kfac_artifacts.factors import Dense
from tests.checked_shapes import PACKAGE, speaking_of_shapes


def test_shapes_of_arguments_and_fields_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        Dense(torch.ones(2, 3))
    with pytest.raises(TypeCheckError):
        Dense(torch.eye(2)).matmul(torch.ones(2))


def test_modules_that_speak_of_shapes_were_imported_by_the_hook() -> None:
    wanted = set(speaking_of_shapes())
    assert f"{PACKAGE}.penalty" in wanted
    loaded = {name: sys.modules[name] for name in wanted & sys.modules.keys()}
    loaders = {type(module.__loader__).__name__ for module in loaded.values()}
    assert loaders == {"_JaxtypingLoader"}
