"""The examples run as a reader runs them, and what they print is true."""

from pathlib import Path

import pytest

from tests.examples import continual, laplace, own_loop, own_model


def test_an_own_model_moves_as_far_as_its_artifact_predicts(tmp_path: Path) -> None:
    found = own_model.main(tmp_path)
    assert found["predicted"] == pytest.approx(found["true"], rel=0.2)


def test_an_own_loop_gains_by_the_penalty() -> None:
    losses = own_loop.main()
    assert losses["30"] < 0.6 * losses["0"]


def test_laplace_is_unsure_where_there_are_no_data() -> None:
    deviations = laplace.main()
    assert deviations["outside"] > 10 * deviations["inside"]


def test_continual_training_keeps_the_first_task() -> None:
    kept = continual.main()
    assert kept["0"] < 0.8
    assert kept["0.3"] > 0.95
