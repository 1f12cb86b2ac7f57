"""What rounding has left indefinite is mended and told; what it has not is left."""

import pytest
import torch

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FormatError
from kfac_artifacts.estimate.estimators.base import Estimate
from kfac_artifacts.estimate.settling import settle
from kfac_artifacts.factors import Dense
from tests.artifacts import artifact, rich, with_factors


def _bent(share: float) -> Dense:
    return Dense(torch.diag(torch.tensor([2.0, 1, 1, 1, -2 * share])))


def _estimate(share: float) -> Estimate:
    of = artifact(1, dtype=torch.float32)
    held = {name: of.factors[name] for name in of.factors} | {"linear.A": _bent(share)}
    return Estimate(dict(of.blocks), held)


@pytest.mark.parametrize("share", [6e-6, 2e-5, 9e-4])
def test_what_rounding_explains_is_raised_and_can_be_saved(
    tmp_path: object, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    found = _estimate(share)
    settle(found)
    values = torch.linalg.eigvalsh(found.start["linear.A"].to_dense().double())
    assert values[0].abs() < 1e-6
    torch.testing.assert_close(float(values[-1]), 2 + 2 * share, atol=1e-6, rtol=0)
    assert "1 factors with an eigenvalue below zero" in caplog.text
    assert "linear.A" in caplog.text
    of = with_factors(artifact(1, dtype=torch.float32), dict(found.start))
    save_artifact(of, f"{tmp_path}/a", storage="symmetric-float32")


@pytest.mark.parametrize("share", [0.0, 4e-6, 2e-3])
def test_what_is_definite_or_far_from_it_stays(
    tmp_path: object, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    found = _estimate(share)
    settle(found)
    assert torch.equal(found.start["linear.A"].to_dense(), _bent(share).to_dense())
    assert not caplog.text
    of = with_factors(artifact(1, dtype=torch.float32), dict(found.start))
    if share > 1e-3:
        with pytest.raises(FormatError, match=r"linear\.A is indefinite"):
            save_artifact(of, f"{tmp_path}/a", storage="symmetric-float32")


def test_terms_of_sums_may_have_any_sign(caplog: pytest.LogCaptureFixture) -> None:
    of = rich()
    bent = Dense(torch.diag(torch.tensor([1.0, 1, 1, -1e-4])))
    found = Estimate(dict(of.blocks), {"sB1": bent})
    settle(found)
    assert found.start["sB1"] is bent
    assert not caplog.text
