"""The penalty on compressed factors: the same form, and nothing made dense for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kfac_artifacts.artifact import Artifact, HeldFactors
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.definiteness import check_definite
from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors import (
    CLEARLY,
    BlockDiagonal,
    Dense,
    Factor,
    LowRank,
    Pruned,
)
from kfac_artifacts.format.coding import rounded
from kfac_artifacts.penalty import KfacPenalty
from tests.artifacts import artifact, dense_block, psd, tau, with_factors

FORMS: dict[str, Callable[[torch.Tensor], Factor]] = {
    "dense": Dense,
    "blocks": lambda m: BlockDiagonal.of_dense(m, [2, len(m) - 2]),
    "low rank": lambda m: LowRank.of_dense(m, 2),
    "pruned": lambda m: Pruned.of_dense(m, 2),
}
STORED: dict[str, Callable[[Factor], Factor]] = {
    "exact": lambda factor: factor,
    "int8": lambda factor: rounded(factor, STORAGES["int8"]),
}


def small(form: str, stored: str) -> Artifact:
    """The small artifact with its dense factors in another form."""
    of = artifact(1, dtype=torch.float32)
    factors = {
        name: STORED[stored](FORMS[form](f.matrix) if isinstance(f, Dense) else f)
        for name, f in of.factors.items()
    }
    return replace(of, factors=HeldFactors(factors))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", STORED)
def test_value_and_gradient_are_those_of_the_decoded_matrices(
    form: str, stored: str
) -> None:
    of = small(form, stored)
    given = {n: t.requires_grad_() for n, t in tau(0, torch.float32).items()}
    other = {n: t.requires_grad_() for n, t in tau(0, torch.float32).items()}
    value = KfacPenalty(of)(given)
    wanted = torch.zeros(())
    for name, block in of.blocks.items():
        w = block.gather(other).flatten()
        wanted = wanted + w @ dense_block(of, name) @ w
    torch.testing.assert_close(value, wanted)
    found = torch.autograd.grad(value, list(given.values()))
    for one, two in zip(
        found, torch.autograd.grad(wanted, list(other.values())), strict=True
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("form", FORMS)
def test_moving_a_penalty_keeps_int8_as_it_is(form: str) -> None:
    penalty = KfacPenalty(small(form, "int8"))
    before = {n: f.nbytes for n, f in penalty.factors.items()}
    value = penalty(tau(0, torch.float32))
    moved = penalty.to("cpu")
    assert {n: f.nbytes for n, f in moved.factors.items()} == before
    torch.testing.assert_close(moved(tau(0, torch.float32)), value)


class Largest(TorchDispatchMode):
    """Remember the most numbers that any operation has given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.is_floating_point():
            self.size = max(self.size, found.numel())
        return found


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    ("form", "share"),
    [
        (lambda m: LowRank.of_dense(m, 8), 0.05),
        (lambda m: BlockDiagonal.of_dense(m, [64] * 8), 0.13),
        (lambda m: Pruned.of_dense(m, 1000), 0.2),
        (Dense, 0.2),
    ],
    ids=["low rank", "blocks", "pruned", "dense"],
)
def test_a_product_makes_nothing_dense(
    form: Callable[[torch.Tensor], Factor],
    share: float,
    stored: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dim = 512
    monkeypatch.setattr("kfac_artifacts.factors.int8.ROWS", dim // 8)
    monkeypatch.setattr("kfac_artifacts.factors.pruned.CHUNK", dim * dim // 8)
    factor = STORED[stored](form(psd(dim, 0, torch.float32)))
    with Largest() as largest:
        factor.matmul(torch.ones(dim, 4))
    assert 0 < largest.size <= share * dim * dim


def test_factors_that_are_semidefinite_up_to_rounding_pass() -> None:
    for form in FORMS:
        if form != "pruned":
            check_definite(small(form, "int8"))
    check_definite(artifact(1))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_factor_is_refused_just_beyond_the_limit(sign: int) -> None:
    of = artifact(1)
    basis = torch.linalg.qr(psd(5, 3)).Q
    values = torch.tensor([1.0, 0.5, 0.2, 0.0, 0.0], dtype=torch.float64)
    values[4] = -CLEARLY * (1 + sign * 0.05)
    bad = Dense((basis * values) @ basis.mT)
    broken = with_factors(of, {"linear.A": bad})
    if sign < 0:
        check_definite(broken)
    else:
        with pytest.raises(FactorError, match=r"linear\.A is clearly indefinite"):
            check_definite(broken)


@pytest.mark.parametrize(
    "bad",
    [
        Pruned.of_dense(torch.ones(5, 5).fill_diagonal_(0.1), 4),
        BlockDiagonal.of_dense(torch.ones(5, 5).fill_diagonal_(0.1), [3, 2]),
        LowRank(torch.eye(5)[:2], torch.tensor([1.0, -0.5])),
        LowRank(torch.eye(5)[:1], torch.ones(1), torch.tensor([0, 0, 0, 0, -1.0])),
    ],
    ids=["pruned", "blocks", "value", "remainder"],
)
def test_every_structure_is_looked_at(bad: Factor) -> None:
    of = artifact(1, dtype=torch.float32)
    broken = with_factors(of, {"linear.A": bad})
    with pytest.raises(FactorError, match="clearly indefinite"):
        check_definite(broken)


def test_a_sum_of_terms_is_looked_at_as_a_whole() -> None:
    of = artifact(1)
    block = replace(
        of.blocks["linear"], terms=(("linear.A", "linear.B"), ("minus", "linear.B"))
    )
    blocks = {**of.blocks, "linear": block}
    A = of.factors["linear.A"].to_dense()
    good = replace(
        of, blocks=blocks, factors=HeldFactors({**of.factors, "minus": Dense(-0.5 * A)})
    )
    check_definite(good)  # half is left
    bad = replace(
        of, blocks=blocks, factors=HeldFactors({**of.factors, "minus": Dense(-1.5 * A)})
    )
    with pytest.raises(FactorError, match="linear is clearly indefinite"):
        check_definite(bad)
