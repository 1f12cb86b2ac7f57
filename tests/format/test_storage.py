"""Storage codecs: exact where they promise it, within their rounding elsewhere."""

import pytest
import torch

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import STORAGES, Storage

ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def covariance(dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dim)
    inputs = torch.randn(3 * dim, dim, generator=generator, dtype=torch.float64)
    return inputs.mT @ inputs / (3 * dim)


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("dim", [1, 2, 17])
def test_every_entry_is_rounded_at_most_once(name: str, dim: int) -> None:
    storage, matrix = Storage.parse(name), covariance(dim)
    stored = storage.encode(matrix)
    assert stored.shape == storage.stored_shape((dim, dim))
    decoded = storage.decode(stored, (dim, dim))
    assert decoded.dtype == torch.float32
    bound = 1.001 * ROUNDING[storage.dtype] * matrix.abs() + 2.0**-25
    assert bool(((decoded - matrix).abs() <= bound).all())


@pytest.mark.parametrize("name", STORAGES)
def test_writing_again_what_was_read_changes_nothing(name: str) -> None:
    storage = Storage.parse(name)
    stored = storage.encode(covariance(9))
    again = storage.encode(storage.decode(stored, (9, 9)))
    assert torch.equal(again, stored)


def test_symmetric_storage_takes_half_the_entries_and_gives_a_symmetric_matrix() -> (
    None
):
    storage, matrix = Storage.parse("symmetric"), covariance(5).float()
    matrix[0, 1] += 1e-7  # as a product in another order would
    assert storage.encode(matrix).shape == (15,)
    decoded = storage.decode(storage.encode(matrix), (5, 5))
    assert torch.equal(decoded, decoded.mT)


def test_a_tensor_that_is_no_square_matrix_takes_the_plain_form() -> None:
    storage = Storage.parse("symmetric-float16")
    assert storage.for_shape((4,)) == Storage("float16")
    assert storage.for_shape((4, 4)) == storage


@pytest.mark.parametrize("entry", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize("name", STORAGES)
def test_a_value_that_no_number_type_holds_is_refused(name: str, entry: float) -> None:
    matrix = covariance(3)
    matrix[1, 1] = entry
    with pytest.raises(FormatError):
        Storage.parse(name).encode(matrix)


def test_zero_is_a_matrix_like_any_other() -> None:
    for name in STORAGES:
        storage = Storage.parse(name)
        zero = storage.decode(storage.encode(torch.zeros(3, 3)), (3, 3))
        assert torch.equal(zero, torch.zeros(3, 3))


@pytest.mark.parametrize(
    "name", ["", "int8", "symmetric-int8", "symmetricfloat16", "-"]
)
def test_an_unknown_storage_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="choose one of"):
        Storage.parse(name)
