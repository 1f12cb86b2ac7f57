"""Factors in the host's memory: what fits, and that copies come ahead of their turn.

Streams of the CPU do nothing, so this is the order of copies, and not their overlap.
"""

import weakref
from typing import Any

import pytest
import torch

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.factors import Dense
from kfac_artifacts.offload import CopiedAhead, stays_in_host
from kfac_artifacts.penalty import KfacPenalty
from tests.artifacts import artifact, tau
from tests.test_penalty_compressed import FORMS, STORED, small

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Watched(dict[str, Any]):
    """Factors that remember when they were asked for."""

    def __init__(self, factors: Any, seen: list[str]) -> None:
        super().__init__(factors)
        self.seen = seen

    def __getitem__(self, name: str) -> Any:
        self.seen.append(name)
        return super().__getitem__(name)


def test_the_next_factors_are_copied_before_a_turn_and_shared_ones_once() -> None:
    seen: list[str] = []
    factors = artifact(1).factors
    copied = CopiedAhead(dict(factors), CPU)
    copied.factors = Watched(factors, seen)
    names = list(factors)[:4]
    a, b, c, d = names
    kept: list[dict[str, Any]] = []
    for number, given in enumerate(copied.in_turn([[a, b], [b, c], [d], [a]])):
        assert (
            seen == [[a, b, c], [a, b, c, d], [a, b, c, d, a], [a, b, c, d, a]][number]
        )
        assert not any(kept)  # what a turn had is let go of
        assert set(given) == [{a, b}, {b, c}, {d}, {a}][number]
        for name, factor in given.items():
            assert torch.equal(factor.to_dense(), factors[name].to_dense())
        kept.append(given)
    assert len(kept) == 4


def test_factors_are_in_memory_twice_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[int] = []
    kept: list[weakref.ref[Any]] = []
    factors = {
        str(i): Dense(torch.eye(3, dtype=torch.float64)) for i in range(4)
    }  # of nobody else
    kept += [weakref.ref(factor.matrix) for factor in factors.values()]

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(sum(each() is not None for each in kept))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", copied)
    monkeypatch.setattr(torch, "get_device_module", lambda _: torch.cpu)
    monkeypatch.setattr(torch.cpu, "Stream", lambda _: None)
    found = CopiedAhead(factors, CUDA).factors
    assert alive == [4, 3, 2, 1]
    assert [*found] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", STORED)
def test_a_penalty_of_copied_factors_is_the_same(form: str, stored: str) -> None:
    penalty = KfacPenalty(small(form, stored))
    ours, theirs = (
        {n: t.requires_grad_() for n, t in tau(0, torch.float32).items()}
        for _ in range(2)
    )
    expected = penalty.backward(theirs, 3.0)
    penalty._copied = CopiedAhead(penalty.factors, CPU)
    assert not penalty.factors  # whatever is used has been copied
    assert torch.equal(penalty.backward(ours, 3.0), expected)
    assert torch.equal(penalty(ours), expected)
    for name, change in ours.items():
        assert change.grad is not None
        torch.testing.assert_close(change.grad, theirs[name].grad, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_auto_is_the_device_if_they_fit_into_half_of_what_is_free(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = small(form, "exact")
    taken = sum(of.factors[n].nbytes for n in of.factors)
    enough = 2 * taken if form != "pruned" else 8 * taken  # of a mask bits are counted
    for bytes_, stays in ((enough, False), (2 * taken - 2, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, n=bytes_: (n, 10**12))
        assert stays_in_host(of, CUDA, "auto") is stays


def test_whoever_names_a_place_gets_it() -> None:
    of = artifact(1)
    assert stays_in_host(of, CUDA, "host")
    assert not stays_in_host(of, CUDA, "device")
    assert not stays_in_host(of, CPU, "host")  # it is the device
    for place in ("auto", "device", "host"):
        assert float(KfacPenalty(of, device="cpu", place=place)(tau())) > 0
    with pytest.raises(SettingsError, match="'disk'; choose from auto, device, host"):
        KfacPenalty(of, place="disk")
