"""Recipes by name: what is written is what is read."""

import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kfac_artifacts.compress import PRESETS, Recipe
from kfac_artifacts.compress.forms import (
    Blocks,
    Keep,
    Leading,
    OnlyDiagonal,
    Prune,
)
from kfac_artifacts.compress.recipes import HELP, storages
from kfac_artifacts.errors import SettingsError

FORMS = [word.strip() for word in HELP.split("with +")[0].split(",") if word.strip()]
OTHERS = ["", "large", "block", "block-", "block-x", "block--1", "block-1.5"]
OTHERS += ["low-rank", "low-rank-1.5", "svd-5 %", "prune-5", "diagonal-3", "+int8"]
OTHERS += ["int8+int8", "small+int8", "int4", "Block-8", "block-8 ", "prune--1%"]
OTHERS += ["low-rank-nan%", "svd-inf%"]
COUNTS = st.integers(1, 10**6).map(str)
PERCENTS = st.one_of(
    st.integers(1, 100).map(str),
    st.decimals("0.000001", 100, places=6).map("{:f}".format),
)


@given(
    form=st.sampled_from(FORMS),
    count=COUNTS,
    percent=PERCENTS,
    storage=st.sampled_from(["", *(f"+{name}" for name in storages())]),
)
def test_every_form_of_the_help_is_read_with_every_storage(
    form: Any, count: Any, percent: Any, storage: Any
) -> None:
    name = form.replace("P%", f"{percent}%")
    name = re.sub(r"-[KR](?=-|$)", f"-{count}", name) + storage
    recipe = Recipe.parse(name)
    assert recipe.dtype == (storage[1:] or "float32")
    assert Recipe.parse(recipe.name) == recipe


def test_the_help_names_all_kinds_of_forms() -> None:
    assert len(FORMS) == 10
    kinds = {type(Recipe.parse(re.sub("[KRP]", "7", form)).form) for form in FORMS}
    assert kinds == {Blocks, Leading, Prune, OnlyDiagonal}


@pytest.mark.parametrize("storage", storages())
def test_a_storage_alone_keeps_the_structure(storage: str) -> None:
    recipe = Recipe.parse(storage)
    assert recipe == Recipe(Keep(), storage)
    assert recipe.name == storage
    assert storage in HELP


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_other_names_of_recipes(name: str) -> None:
    assert Recipe.parse(name) == Recipe.parse(PRESETS[name])
    assert name in HELP


def test_numbers_mean_what_they_say() -> None:
    assert Recipe.parse("low-rank-32").form == Leading(32.0, "rank", True)
    assert Recipe.parse("low-rank-32%").form == Leading(0.32, "share", True)
    assert Recipe.parse("svd-trace-99.5%").form == Leading(0.995, "trace", False)
    assert Recipe.parse("prune-30%").form == Prune(0.3)
    assert Recipe.parse("block-4-correlated").form == Blocks(4, correlated=True)


def test_only_float32_goes_without_saying() -> None:
    assert Recipe.parse("block-4+float32").name == "block-4"
    assert Recipe.parse("block-4+int8").name == "block-4+int8"
    assert Recipe.parse("block-4").storage == "symmetric-float32"
    assert Recipe.parse("block-4+bfloat16").storage == "symmetric-bfloat16"
    assert Recipe.parse("block-4+int8").storage == "int8"


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Recipe.parse(name)
    assert repr(name) in str(caught.value)
    assert HELP in str(caught.value)


@pytest.mark.parametrize("name", ["block-8+int4", "svd-3+", "block-8+int8+int8"])
def test_other_storages_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Recipe.parse(name)
    assert all(storage in str(caught.value) for storage in storages())


@pytest.mark.parametrize(
    "name", ["block-0", "block-0-correlated", "low-rank-0", "svd-0"]
)
def test_nothing_cannot_be_kept(name: str) -> None:
    with pytest.raises(SettingsError, match="at least 1, not 0"):
        Recipe.parse(name)


@pytest.mark.parametrize("percent", ["0", "0.0", "100.1", "101"])
@pytest.mark.parametrize("kind", [form for form in FORMS if "P%" in form])
def test_percentages_are_above_0_and_at_most_100(kind: str, percent: str) -> None:
    with pytest.raises(SettingsError, match=f"at most 100 %, not {percent}"):
        Recipe.parse(kind.replace("P", percent))
