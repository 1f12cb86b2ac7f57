"""Inner products of gradients of different examples, against brute force."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kfac_artifacts.capture import gradient_gram as pairs
from kfac_artifacts.capture.gradient_gram import gram, join
from kfac_artifacts.capture.record import LinearRecord, Record, TableRecord

N, K, D_OUT, D_IN, ROWS = 5, 2, 4, 3, 50


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def linear(positions: int) -> Record:
    real = (drawn(N, positions) > -1).double()
    g = drawn(N, K, positions, D_OUT) * real[:, None, :, None]
    return LinearRecord(g, drawn(N, positions, D_IN), real, bias=True)


def table(positions: int) -> Record:
    ids = (3 * drawn(N, positions)).abs().long() - 1  # some of them -1
    real = (ids >= 0).double()[:, None, :, None]
    return TableRecord(drawn(N, K, positions, D_OUT) * real, ids, ROWS)


def brute_force(record: Record) -> Tensor:
    M = record.matrices().flatten(2)
    return torch.einsum("nkd,mld->nkml", M, M)


@pytest.mark.parametrize("kind", [linear, table])
@pytest.mark.parametrize("positions", [1, 2, 7])
@pytest.mark.parametrize("chunk", [1, 40, 2**24])
def test_both_ways_give_the_inner_products_of_the_gradients(
    kind: Callable[[int], Record],
    positions: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "CHUNK", chunk)
    record = kind(positions)
    expected = brute_force(record)
    torch.testing.assert_close(gram(record), expected)
    for way in (pairs._explicit, pairs._factored):
        torch.testing.assert_close(way(record), expected.view(N * K, N * K))


@pytest.mark.parametrize("kind", [linear, table])
def test_joined_batches_have_the_gradients_of_both(
    kind: Callable[[int], Record],
) -> None:
    batches = [kind(2), kind(7)]
    M = torch.cat([batch.matrices() for batch in batches])
    torch.testing.assert_close(join(batches).matrices(), M)


def test_a_record_of_an_identity_joins_with_one_of_inputs() -> None:
    compact, plain = linear(7).compact(), linear(2).compact()  # type: ignore[attr-defined]
    M = torch.cat([compact.matrices(), plain.matrices()])
    assert compact.g.shape[2] == D_IN + 1
    torch.testing.assert_close(
        join([plain, compact]).matrices(), M[[*range(5, 10), *range(5)]]
    )


def test_a_table_is_compared_by_the_rows_in_use() -> None:
    record = table(7)
    trimmed = record.trimmed()
    assert trimmed.width == len({*record.inputs.flatten().tolist()} - {-1}) < ROWS
    torch.testing.assert_close(brute_force(trimmed), brute_force(record))


def test_a_table_of_which_nothing_is_used_has_no_gradient() -> None:
    nothing = TableRecord(0 * drawn(N, K, 2, D_OUT), torch.full((N, 2), -1), ROWS)
    assert gram(nothing).norm() == 0
