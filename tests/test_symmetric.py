"""Products with symmetric results, against the whole product."""

import pytest
import torch

from kfac_artifacts.symmetric import add_outer, half_product, mirror

F64 = torch.float64


@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_half_a_product_and_its_transpose_are_the_whole(size: int) -> None:
    torch.manual_seed(size)
    rows, root = torch.randn(5, size, dtype=F64), torch.randn(size, size, dtype=F64)
    matrix = root @ root.mT
    half = half_product(rows, matrix)
    torch.testing.assert_close(half @ rows.mT + rows @ half.mT, rows @ matrix @ rows.mT)


@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_outer_products_of_two_kinds_of_rows_add_up_to_a_symmetric_sum(
    size: int,
) -> None:
    torch.manual_seed(size)
    rows, root = torch.randn(5, size, dtype=F64), torch.randn(5, 5, dtype=F64)
    others, total = (root @ root.mT) @ rows, torch.zeros(size, size, dtype=F64)
    add_outer(total, rows, others)
    torch.testing.assert_close(mirror(total), rows.mT @ others)
