"""Products with symmetric results, against the whole product."""

import pytest
import torch

from kfac_artifacts.symmetric import (
    NARROW,
    add_outer,
    half_product,
    mirror,
    upper_panels,
)

F64 = torch.float64


@pytest.mark.parametrize("size", [1, 3, 8, 21, 100])
def test_half_a_product_and_its_transpose_are_the_whole(size: int) -> None:
    torch.manual_seed(size)
    rows, root = torch.randn(5, size, dtype=F64), torch.randn(size, size, dtype=F64)
    matrix = root @ root.mT
    half = half_product(rows, matrix)
    torch.testing.assert_close(half @ rows.mT + rows @ half.mT, rows @ matrix @ rows.mT)


@pytest.mark.parametrize("size", [1, 3, 8, 21, 100])
def test_outer_products_of_two_kinds_of_rows_add_up_to_a_symmetric_sum(
    size: int,
) -> None:
    torch.manual_seed(size)
    rows, root = torch.randn(5, size, dtype=F64), torch.randn(5, 5, dtype=F64)
    others, total = (root @ root.mT) @ rows, torch.zeros(size, size, dtype=F64)
    add_outer(total, rows, others)
    torch.testing.assert_close(mirror(total), rows.mT @ others)


@pytest.mark.parametrize("size", [3, 8, 27, 63, 64, 70, 100, 130])
def test_the_error_does_not_grow_with_the_number_of_rows(size: int) -> None:
    """Rows that are nearly alike, as borders of images are: rounding goes one way.

    Where products are not made of float64, panels are as good as the whole product,
    whose own error depends on the processor.
    """
    alike = torch.linspace(0.3, 0.7, size)
    total, whole = torch.zeros(size, size), torch.zeros(size, size)
    expected = torch.zeros(size, size, dtype=F64)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        rows = alike + 1e-3 * torch.randn(50_000, size, generator=generator)
        add_outer(total, rows)
        whole.addmm_(rows.mT, rows)
        expected += rows.double().mT @ rows.double()
    error, usual = (
        float((found - expected).abs().max() / expected.abs().max())
        for found in (mirror(total), whole)
    )
    assert error < (1e-6 if size < NARROW else max(1e-5, 2 * usual))


@pytest.mark.parametrize("size", [1, 15, 16, 31, 100, 127, 128, 1000])
def test_panels_cover_the_upper_triangle_once_and_none_is_narrow(size: int) -> None:
    matrix = torch.zeros(size, size)
    panels = list(upper_panels(matrix))
    for panel in panels:
        panel.add_(1)
    assert bool((matrix.triu() == torch.ones(size, size).triu()).all())
    assert int(matrix.max()) == 1
    assert min(len(panel) for panel in panels) >= min(size, 16)
    assert len(panels) == max(1, min(8, size // 16))
