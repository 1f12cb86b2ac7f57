"""Squares of gradients in other coordinates, against the gradients themselves."""

import pytest
import torch

from kfac_artifacts.capture.record import LinearRecord


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("outputs", "inputs", "positions"),
    [(5, 4, 3), (200, 180, 3), (460, 450, 4), (500, 3, 4)],
    ids=["small", "one by one", "in parts", "more positions than inputs"],
)
def test_squares_are_those_of_the_turned_gradients(
    outputs: int, inputs: int, positions: int, padded: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, positions, inputs - 1, dtype=torch.float64)
    g = torch.randn(3, 2, positions, outputs, dtype=torch.float64)
    real = torch.ones(3, positions, dtype=torch.float64)
    if padded:
        real[1, 1:] = real[2, 0] = 0
        g = g * real[:, None, :, None]
    record = LinearRecord(g, x, real if padded else None, bias=True)
    a = torch.cat([x, torch.ones(3, positions, 1, dtype=x.dtype)], dim=2)
    M = torch.einsum("nkpo,npi->nkoi", g, a)
    U = torch.linalg.qr(torch.randn(outputs, outputs, dtype=x.dtype))[0]
    V = torch.linalg.qr(torch.randn(inputs, inputs, dtype=x.dtype))[0]
    total = torch.ones(outputs, inputs, dtype=x.dtype)
    record.add_squares(total, U, V)
    torch.testing.assert_close(total, 1 + (U @ M @ V.mT).square().mean(1).sum(0))
    torch.testing.assert_close(record.squares(), M.square().sum((0, 1)))
