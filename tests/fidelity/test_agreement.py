"""Ratios and ranks of predictions beside the truth."""

from typing import Any

import pytest

from kfac_artifacts.fidelity import Agreement, Drift, agreement


def of(*pairs: tuple[int, int]) -> Agreement:
    return agreement(
        [Drift("", float(predicted), float(true), 0.0) for predicted, true in pairs]
    )


def test_the_ratio_is_a_geometric_mean_with_its_spread() -> None:
    found = of((1, 2), (4, 2), (9, 9))
    assert found.ratio == pytest.approx(1)
    assert found.spread == pytest.approx(2 ** (2 / 3) ** 0.5)
    assert found.count == 3


def test_ranks_ask_for_the_order_alone() -> None:
    assert of((1, 10), (2, 100), (3, 1000)).rank_correlation == pytest.approx(1)
    assert of((3, 10), (2, 100), (1, 1000)).rank_correlation == pytest.approx(-1)


def test_what_is_not_positive_has_no_ratio() -> None:
    found = of((1, 2), (0, 2), (-1, 2), (1, 0))
    assert found.ratio == pytest.approx(0.5)
    assert found.not_positive == 3


@pytest.mark.parametrize("pairs", [[], [(1, 2)], [(1, 2), (1, 3)], [(1, 2), (2, 2)]])
def test_there_is_no_order_of_one_value(pairs: list[Any]) -> None:
    assert of(*pairs).rank_correlation is None


def test_nothing_agrees_with_nothing() -> None:
    assert of() == Agreement(0, None, None, None, 0)
