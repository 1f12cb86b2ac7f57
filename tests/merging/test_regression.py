"""The regression that RegMean solves, beside its definition."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError
from kfac_artifacts.task_vector.merging.regression import regress
from tests.artifacts import psd


def matrices(count: int, rows: int = 3, columns: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, rows, columns)
    return [*torch.randn(shape, generator=generator, dtype=torch.float64)]


def inputs(count: int, dim: int = 6) -> list[Tensor]:
    """Covariances of sizes that differ by powers of ten, as those of inputs do."""
    scale = torch.logspace(-3, 4, dim, dtype=torch.float64)
    return [psd(dim, seed) * scale * scale[:, None] for seed in range(count)]


def loss(W: Tensor, changes: Sequence[Tensor], As: Sequence[Tensor]) -> Tensor:
    terms = [
        torch.trace((W - own) @ A @ (W - own).mT)
        for own, A in zip(changes, As, strict=True)
    ]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_no_map_is_better_on_the_inputs_of_all_tasks(tasks: int) -> None:
    changes, As = matrices(tasks), inputs(tasks)
    W = regress(changes, As, 1.0).requires_grad_()
    loss(W, changes, As).backward()
    assert W.grad is not None
    size = torch.stack([own @ A for own, A in zip(changes, As, strict=True)]).abs()
    assert (W.grad.abs() <= 1e-9 * size.sum(0)).all()


def test_it_is_the_formula_of_the_paper() -> None:
    """``merge_regmean`` and ``reduce_non_diag`` of dataless-model-merging."""
    changes, As = matrices(3), inputs(3)
    reduced = [A * (torch.eye(6) * (1 - 0.9) + 0.9) for A in As]
    pulled = sum(own @ A for own, A in zip(changes, reduced, strict=True))
    wanted = pulled @ torch.linalg.inv(sum(reduced))
    torch.testing.assert_close(regress(changes, As, 0.9), wanted)


def test_without_what_is_off_the_diagonal_each_input_is_averaged_by_itself() -> None:
    changes, As = matrices(3), inputs(3)
    diagonals = [A.diagonal() for A in As]
    pulled = sum(own * d for own, d in zip(changes, diagonals, strict=True))
    wanted = pulled / sum(diagonals)
    torch.testing.assert_close(regress(changes, As, 0.0), wanted)
    torch.testing.assert_close(regress(changes, diagonals, 1.0), wanted)


def test_diagonals_are_taken_beside_whole_matrices() -> None:
    changes, As = matrices(3), inputs(3)
    diagonals = [A.diagonal() for A in As]
    mixed = [As[0], diagonals[1], As[2]]
    dense = [As[0], diagonals[1].diag(), As[2]]
    torch.testing.assert_close(
        regress(changes, mixed, 1.0), regress(changes, dense, 1.0)
    )
    mixed, dense = mixed[1::-1], dense[1::-1]
    torch.testing.assert_close(
        regress(changes[:2], mixed, 1.0), regress(changes[:2], dense, 1.0)
    )


@pytest.mark.parametrize("off_diagonal", [0.9, 1.0])
def test_the_identity_gives_the_mean(off_diagonal: float) -> None:
    changes = matrices(4)
    eye = [torch.eye(6, dtype=torch.float64)] * 4
    wanted = torch.stack(changes).mean(0)
    torch.testing.assert_close(regress(changes, eye, off_diagonal), wanted)


@pytest.mark.parametrize("off_diagonal", [0.9, 1.0])
def test_where_no_input_ever_is_the_mean_stays(off_diagonal: float) -> None:
    changes, wide = matrices(2), []
    for A in inputs(2, 4):
        wide.append(torch.zeros(6, 6, dtype=torch.float64))
        wide[-1][:4, :4] = A
    found, mean = regress(changes, wide, off_diagonal), torch.stack(changes).mean(0)
    torch.testing.assert_close(found[:, 4:], mean[:, 4:])
    seen = regress([c[:, :4] for c in changes], [A[:4, :4] for A in wide], off_diagonal)
    torch.testing.assert_close(found[:, :4], seen)
    ends = [A.diagonal() for A in wide]
    torch.testing.assert_close(regress(changes, ends, 1.0)[:, 4:], mean[:, 4:])


@pytest.mark.parametrize("jitter", [0.0, 3e-7])
def test_few_inputs_say_nothing_about_other_directions(jitter: float) -> None:
    """Two inputs of six directions, rounded to float32 as artifacts keep them."""
    changes = matrices(2, columns=6)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)).double()
    As = [(weight * x.mT @ x).float().double() for weight in (1, 2)]
    As[0] += jitter * torch.eye(6, dtype=torch.float64)  # rounding may go either way
    W, mean = regress(changes, As, 1.0), torch.stack(changes).mean(0)
    wanted = (changes[0] + 2 * changes[1]) / 3
    torch.testing.assert_close(W @ x.mT, wanted @ x.mT, rtol=1e-5, atol=1e-5)
    # with inputs of unit size, what is moved lies within their span
    moved = (W - mean) * sum(As).diagonal().sqrt()
    unit = x / sum(As).diagonal().sqrt()
    off = moved - moved @ torch.linalg.pinv(unit) @ unit
    assert off.abs().max() < 1e-5 * moved.abs().max()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_inputs_of_any_size_give_the_same(scale: float) -> None:
    changes, As = matrices(2), inputs(2)
    found = regress(changes, [scale * A for A in As], 0.9)
    torch.testing.assert_close(found, regress(changes, As, 0.9))


def test_clearly_indefinite_inputs_are_refused() -> None:
    bad = torch.eye(6, dtype=torch.float64)
    bad[0, 1] = bad[1, 0] = 1.5
    with pytest.raises(FactorError, match=r"clearly indefinite: .* -0.2 of"):
        regress(matrices(1), [bad], 1.0)
