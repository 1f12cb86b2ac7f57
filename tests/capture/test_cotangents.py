"""Cotangents: unbiased, seeded by the example, and orthogonal where they should be."""

from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import Cotangents, NamedConfig
from kfac_artifacts.capture.cotangents import Drawing, check_cotangents, orthogonal
from kfac_artifacts.capture.sample import Sample
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import OutputMap, TensorExamples

MAP = OutputMap(NamedConfig("f"), lambda _, batch: batch["x"])

KINDS = ("orthogonal", "mc")


def drawn(kind: str, count: int, width: Any, *, draws: int = 1, seed: int = 0) -> Any:
    """All cotangents of some examples, ``[N, K, C]``."""
    drawing = Drawing(Cotangents(kind, draws, seed), range(100, 100 + count))
    f = torch.zeros(count, width, dtype=torch.float64)
    return torch.stack(list(drawing.vectors(range(count), f)), dim=1)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_rows_are_orthogonal_and_of_length_root_c(width: Any) -> None:
    rows = orthogonal((0, 0), width, width)
    torch.testing.assert_close(
        rows @ rows.mT, width * torch.eye(width, dtype=torch.float64)
    )


def test_as_many_orthogonal_draws_as_outputs_are_exact_for_every_example() -> None:
    s = drawn("orthogonal", 3, 5, draws=5)
    for own in s:
        unit = 5 * torch.eye(5, dtype=torch.float64)
        torch.testing.assert_close(own.mT @ own, unit)


def test_consecutive_examples_of_a_half_share_an_orthogonal_matrix() -> None:
    s = drawn("orthogonal", 24, 6)[:, 0]
    groups = [s[parity::2][start : start + 6] for parity in (0, 1) for start in (0, 6)]
    for number, group in enumerate(groups):
        unit = 6 * torch.eye(6, dtype=torch.float64)
        torch.testing.assert_close(group @ group.mT, unit)
        for other in groups[:number]:  # of another matrix, at any angle
            assert (group @ other.mT).abs().min() > 1e-6


def test_the_halves_are_independent_of_each_other() -> None:
    """E[(sᵀs')²] is C for independent ones, and 0 within an orthogonal matrix."""
    seeds = range(2000)
    s = torch.stack([drawn("orthogonal", 4, 8, seed=i)[:, 0] for i in seeds])
    squares = torch.einsum("inc,imc->inm", s, s).pow(2).mean(0)
    assert squares[0, 2] < 1e-9
    assert squares[1, 3] < 1e-9
    for even, odd in ((0, 1), (0, 3), (2, 1)):
        assert abs(float(squares[even, odd]) - 8) < 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "width"), [(3, 5), (7, 3)])
def test_drawn_cotangents_have_the_unit_matrix_as_second_moment(
    kind: str, count: int, width: Any
) -> None:
    """For every example alone, and every pair of examples uncorrelated in square."""
    seeds = 4000
    s = torch.stack([drawn(kind, count, width, seed=i)[:, 0] for i in range(seeds)])
    moments = torch.einsum("inc,ind->ncd", s, s) / seeds
    error = (moments - torch.eye(width, dtype=torch.float64)).abs().max()
    assert error < 6 * (2 / seeds) ** 0.5
    assert s.mean(0).abs().max() < 5 / seeds**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_cotangents_do_not_depend_on_the_batch_or_the_order(kind: str) -> None:
    whole = drawn(kind, 9, 4, draws=2)
    drawing = Drawing(Cotangents(kind, 2, 0), range(100, 109))
    f = torch.zeros(3, 4, dtype=torch.float64)
    for ordinals in ([8, 0, 5], [3, 4, 2]):
        part = torch.stack(list(drawing.vectors(ordinals, f)), dim=1)
        assert torch.equal(part, whole[ordinals])


def test_fewer_examples_than_outputs_are_orthogonal_to_one_another() -> None:
    s = drawn("orthogonal", 8, 50)[::2, 0]
    torch.testing.assert_close(s @ s.mT, 50 * torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(("count", "width"), [(16, 8), (32, 8), (16, 16)])
def test_orthogonal_cotangents_have_less_variance(count: int, width: Any) -> None:
    """B of a linear map of random inputs, over many seeds."""
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(count, width, 6, generator=generator, dtype=torch.float64)
    exact = torch.einsum("nci,ncj->ij", J, J) / count
    errors = {}
    for kind in KINDS:
        g = [
            torch.einsum("nci,nc->ni", J, drawn(kind, count, width, seed=i)[:, 0])
            for i in range(200)
        ]
        errors[kind] = sum((x.mT @ x / count - exact).pow(2).sum().item() for x in g)
    assert errors["orthogonal"] < 0.9 * errors["mc"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("mc", None),
        ("mc", 0),
        ("exact", 2),
        ("guess", 1),
        ("orthogonal", None),
        ("labels", 1),
    ],
)
def test_cotangents_that_do_not_exist_are_refused(wrong: Any) -> None:
    name, draws = wrong
    with pytest.raises(SettingsError):
        check_cotangents(Cotangents(name, draws, 0), MAP)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_examples_without_loss(processes: Any) -> None:
    examples = TensorExamples({"x": torch.arange(20.0)[:, None]}, "x")
    seen = []
    for number in range(processes):
        sample = Sample(
            examples,
            range(3, 20, 2),
            Cotangents("mc", 1, 0),
            2,
            (number, processes),
        )
        for loaded in sample.batches():
            seen += loaded.batch["x"][:, 0].tolist()
            wanted = [float(sample.indices[ordinal]) for ordinal in loaded.ordinals]
            assert loaded.batch["x"][:, 0].tolist() == wanted
    assert sorted(seen) == [float(i) for i in range(3, 20, 2)]


def test_even_batches_are_as_many_on_every_process() -> None:
    examples = TensorExamples({"x": torch.arange(7.0)[:, None]}, "x")
    counts = []
    for number in range(3):
        sample = Sample(examples, range(7), Cotangents("mc", 1, 0), 1, (number, 3))
        counts.append(len(list(sample.batches(even=True))))
    assert counts == [3, 3, 3]
