"""What was done to tensors without numbers, done again with numbers."""

import pytest
import torch

from kfac_artifacts.sources.checkpoint import (
    Recorded,
    replay,
    stored_name,
    stored_names,
)

STORED = {
    f"{kind}.{expert}": torch.randn(3, 4, generator=torch.Generator().manual_seed(n))
    for n, (kind, expert) in enumerate((k, e) for k in ("gate", "up") for e in range(2))
}


def recorded() -> dict[str, Recorded]:
    return {n: Recorded(t.to("meta"), n) for n, t in STORED.items()}


def stacked(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """As the experts of a mixture are, and more that loading may do."""
    gate, up = (
        torch.stack([tensors[f"{kind}.{expert}"] for expert in range(2)])
        for kind in ("gate", "up")
    )
    first, second = torch.cat([gate, up], dim=1).transpose(1, 2).chunk(2, dim=2)
    return torch.cat([second, first.flip(0)], dim=2)[:, 1:].contiguous()


def test_the_same_steps_give_the_same_numbers() -> None:
    made = stacked(dict(recorded()))
    assert isinstance(made, Recorded)
    expected = stacked(STORED)
    assert made.shape == expected.shape
    assert stored_name(made) is None
    assert stored_names(made) == STORED.keys()
    assert torch.equal(replay(made, STORED.__getitem__), expected)


def test_what_is_passed_on_is_the_stored_tensor() -> None:
    one = recorded()["up.1"]
    moved = torch.nn.Parameter(one.detach().to(torch.float64).clone()).data
    assert isinstance(moved, Recorded)
    assert stored_name(moved) == "up.1"
    assert torch.equal(replay(moved, STORED.__getitem__), STORED["up.1"].double())


def test_steps_to_no_device_are_taken_where_the_numbers_are() -> None:
    made = recorded()["up.1"].to(dtype=torch.float64, device="meta").mT
    assert isinstance(made, Recorded)
    found = replay(made, STORED.__getitem__)
    assert torch.equal(found, STORED["up.1"].double().mT)


def test_what_is_changed_in_place_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="in place"):
        recorded()["up.1"].mul_(2)
