"""The penalty of low-rank changes: that of the formed ones, in every structure."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    DiagonalBlock,
    EigenBlock,
    GramianBlock,
    HeldFactors,
    InputsBlock,
    KroneckerBlock,
    Layout,
)
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import CoverageError, FactorError
from kfac_artifacts.factors import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    LowRank,
    Pruned,
)
from kfac_artifacts.format.coding import rounded
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.tuning import grouping
from kfac_artifacts.tuning.forms import LowRankChange
from kfac_artifacts.tuning.low_rank import LowRankPenalty
from tests.artifacts import provenance, psd

ROWS, COLUMNS = Layout.ROWS, Layout.COLUMNS
MODULES = {  # weight, whether with a bias, layout
    "0.q": ((6, 8), True, ROWS),
    "0.k": ((6, 8), True, ROWS),
    "0.down": ((8, 6), False, ROWS),
    "1.q": ((6, 8), True, ROWS),
    "1.k": ((6, 8), True, ROWS),
    "1.down": ((8, 6), False, ROWS),
    "conv": ((8, 6), True, COLUMNS),
}
STRUCTURES: dict[str, Callable[[Tensor], Factor]] = {
    "dense": Dense,
    "blocks": lambda m: BlockDiagonal.of_dense(m, [2, len(m) - 2]),
    "low rank": lambda m: LowRank.of_dense(m, 2),
    "low rank alone": lambda m: LowRank.of_dense(m, 2, remainder=False),
    "pruned": lambda m: Pruned.of_dense(m, 2),
    "diagonal": lambda m: Diagonal(m.diagonal()),
    "int8": lambda m: rounded(Dense(m), STORAGES["int8"]),
}


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (weight, biased, layout) in MODULES.items():
        found[f"{name}.weight"] = weight
        if biased:
            found[f"{name}.bias"] = (weight[0 if layout is ROWS else 1],)
    return found


def curvature(make: Callable[..., tuple[Block, dict[str, Factor]]]) -> Artifact:
    """One block for every module, q and k of a layer with the same inputs."""
    blocks: dict[str, Block] = {}
    factors: dict[str, Factor] = {}
    for seed, (name, (weight, biased, layout)) in enumerate(MODULES.items()):
        rows, columns = weight if layout is ROWS else weight[::-1]
        inputs = name.replace(".k", ".q")
        made, own = make(
            (f"{name}.weight", f"{name}.bias" if biased else None, layout),
            (inputs, name),
            (columns + biased, rows),
            seed,
        )
        blocks[name] = made
        factors = own | factors
    return Artifact(provenance(shapes()), blocks, HeldFactors(factors))


def block(kind: Any, covers: Any, terms: Any) -> Block:
    made: Block = kind(*covers, terms)
    return made


def kronecker(
    structure: str, terms: int = 1, dtype: torch.dtype = torch.float64
) -> Any:
    of = STRUCTURES[structure]

    def make(covers: Any, names: Any, dims: Any, seed: int) -> Any:
        own = {
            f"{name}/{'AB'[side]}{term}": of(
                psd(dims[side], 9 * seed + 2 * term + side, dtype)
            )
            for term in range(terms)
            for side, name in enumerate(names)
        }
        pairs = tuple((f"{names[0]}/A{t}", f"{names[1]}/B{t}") for t in range(terms))
        return block(KroneckerBlock, covers, pairs), own

    return make


def inputs(covers: Any, names: Any, dims: Any, seed: int) -> Any:
    return block(InputsBlock, covers, ((names[0],),)), {
        names[0]: Dense(psd(dims[0], seed))
    }


def diagonal(covers: Any, names: Any, dims: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    S = torch.rand(dims[0] * dims[1], generator=generator, dtype=torch.float64)
    return block(DiagonalBlock, covers, ((names[1],),)), {names[1]: Diagonal(S)}


def eigen(rank: int | None, remainder: bool = False) -> Any:
    def make(covers: Any, names: Any, dims: Any, seed: int) -> Any:
        A, B = (
            LowRank.of_dense(psd(d, 5 * seed + i), rank or d, remainder=remainder)
            for i, d in enumerate(dims)
        )
        generator = torch.Generator().manual_seed(seed)
        count = len(A.values) * len(B.values)
        S = torch.rand(count, generator=generator, dtype=torch.float64)
        keys = (f"{names[1]}/A", f"{names[1]}/B", f"{names[1]}/S")
        own = dict(zip(keys, (A, B, Diagonal(S)), strict=True))
        return block(EigenBlock, covers, (keys,)), own

    return make


KINDS: dict[str, Any] = {
    **{name: kronecker(name) for name in STRUCTURES if name != "int8"},
    "int8": kronecker("int8", dtype=torch.float32),
    "two terms": kronecker("dense", terms=2),
    "inputs": inputs,
    "entries": diagonal,
    "eigen": eigen(None),
    "leading eigen": eigen(3),
    "leading eigen and the rest": eigen(3, remainder=True),
}


def changes(dtype: torch.dtype, ranks: int = 2) -> dict[str, LowRankChange]:
    generator = torch.Generator().manual_seed(7)
    found = {}
    for number, (name, (weight, _, layout)) in enumerate(MODULES.items()):
        rows, columns = weight if layout is ROWS else weight[::-1]
        rank = ranks + (name == "1.k")  # as a pattern of ranks gives
        L = torch.randn(rows, rank, generator=generator, dtype=dtype)
        R = torch.randn(rank, columns, generator=generator, dtype=dtype)
        found[name] = LowRankChange(
            L.requires_grad_(), R.requires_grad_(), 0.5 + number
        )
    return found


def formed(moved: dict[str, LowRankChange]) -> dict[str, Tensor]:
    """The task vector of changes, biases zero."""
    tau = {}
    for name, (_, biased, layout) in MODULES.items():
        L, R, scale = moved[name]
        W = scale * L @ R
        tau[f"{name}.weight"] = W if layout is ROWS else W.mT
        if biased:
            tau[f"{name}.bias"] = W.new_zeros(len(W))
    return tau


def gradients(moved: dict[str, LowRankChange]) -> list[Tensor]:
    return [
        x.grad for change in moved.values() for x in change[:2] if x.grad is not None
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_those_of_the_formed_change(kind: str) -> None:
    of = curvature(KINDS[kind])
    dtype = torch.float32 if kind == "int8" else torch.float64
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)
    weights = {"*.q": 0.3}
    full = KfacPenalty(of, weights=weights, allow_indefinite=True)
    moved, other = changes(dtype), changes(dtype)
    wanted = full(formed(other))
    (3 * wanted).backward()
    penalty = LowRankPenalty(full, shapes(), moved)
    found = penalty(moved)
    close(found, wanted)
    (3 * found).backward()
    for one, two in zip(gradients(moved), gradients(other), strict=True):
        close(one, two)
    close(penalty.backward(moved, 3.0), wanted.detach())
    for one, two in zip(gradients(moved), gradients(other), strict=True):
        close(one, 2 * two)


@pytest.mark.parametrize("kind", ["entries", "eigen"])
def test_few_blocks_at_a_time_are_formed(kind: str, monkeypatch: Any) -> None:
    full = KfacPenalty(curvature(KINDS[kind]))
    moved = changes(torch.float64)
    wanted = LowRankPenalty(full, shapes(), moved)(moved)
    monkeypatch.setattr(grouping, "MOST_FORMED", 1)
    torch.testing.assert_close(LowRankPenalty(full, shapes(), moved)(moved), wanted)


def test_equal_shapes_are_taken_together_and_shared_factors_held_once() -> None:
    full = KfacPenalty(curvature(KINDS["dense"]))
    moved = changes(torch.float64, ranks=3)
    found = list(grouping.groups(full, shapes(), moved))
    names = sorted(group.names for group in found)
    assert ("0.q", "1.q") in names
    assert ("0.down", "1.down") in names
    alike = {name: c for name, c in moved.items() if name != "1.k"}
    alike["1.k"] = moved["1.q"]
    by_names = {g.names: g for g in grouping.groups(full, shapes(), alike)}
    q, k = by_names["0.q", "1.q"], by_names["0.k", "1.k"]
    (of_q,), (of_k,) = q.terms, k.terms
    assert of_q.A is of_k.A
    assert of_q.B is not of_k.B


def test_a_scale_that_changes_counts(monkeypatch: Any) -> None:
    full = KfacPenalty(curvature(KINDS["dense"]))
    moved = changes(torch.float64)
    penalty = LowRankPenalty(full, shapes(), moved)
    value = penalty(moved)
    twice = {n: c._replace(scale=2 * c.scale) for n, c in moved.items()}
    torch.testing.assert_close(penalty(twice), 4 * value)


def test_what_stands_still_gets_no_gradient_and_half_precision_keeps_its_type() -> None:
    full = KfacPenalty(curvature(KINDS["dense"]))
    moved = changes(torch.float64)
    moved["0.q"].left.requires_grad_(False)
    half = moved["conv"].left.detach().bfloat16().requires_grad_()
    moved["conv"] = moved["conv"]._replace(left=half)
    LowRankPenalty(full, shapes(), moved).backward(moved)
    assert moved["0.q"].left.grad is None
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_what_has_no_such_form_is_refused_by_name() -> None:
    of = curvature(KINDS["dense"])
    size = 6 * 9
    blocks = {**of.blocks, "0.q": GramianBlock("0.q.weight", (("G",),))}
    factors = HeldFactors({**of.factors, "G": Dense(psd(48, 1))})
    other = replace(of, blocks=blocks, factors=factors)
    moved = changes(torch.float64)
    wide = {**moved, "0.k": moved["0.down"]}
    with pytest.raises(FactorError, match=r"change of 0\.k is a matrix \[8, 6\]"):
        LowRankPenalty(KfacPenalty(of), shapes(), wide)
    column = LowRankChange(torch.ones(size - 6, 1), torch.ones(1, 1))
    with pytest.raises(CoverageError, match=r"0\.q is a block of kind gramian"):
        LowRankPenalty(KfacPenalty(other), shapes(), {"0.q": column})


def test_a_penalty_that_is_not_finite_names_the_block_and_adds_nothing() -> None:
    full = KfacPenalty(curvature(KINDS["dense"]))
    moved = changes(torch.float64)
    penalty = LowRankPenalty(full, shapes(), moved)
    with torch.no_grad():
        moved["1.down"].left.fill_(float("inf"))
    with pytest.raises(FactorError, match=r"the penalty of 1\.down is"):
        penalty.backward(moved)
    assert not gradients(moved)
