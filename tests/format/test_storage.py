"""Storage codecs: exact where they promise it, within their rounding elsewhere."""

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, strategies as st

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import FormatError, SettingsError
from kfac_artifacts.factors import Field, Int8Entries, Int8Matrix, Role, floats
from kfac_artifacts.format.storage.arithmetic import from_triangle, to_triangle

ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
FLOATS = [name for name in STORAGES if name != "int8"]


def covariance(dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dim)
    inputs = torch.randn(3 * dim, dim, generator=generator, dtype=torch.float64)
    return inputs.mT @ inputs / (3 * dim)


def matrix_field(*shape: int) -> Field:
    return Field(shape, Role.MATRIX)


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("dim", [1, 2, 17])
def test_every_entry_is_rounded_at_most_once(name: str, dim: int) -> None:
    storage, matrix, field = (
        STORAGES[name],
        covariance(dim),
        matrix_field(dim, dim),
    )
    decoded = floats(storage.decode(storage.encode(matrix, field), field))
    assert decoded.dtype == torch.float32
    bound = 1.001 * ROUNDING[name.removeprefix("symmetric-")] * matrix.abs() + 2.0**-25
    assert bool(((decoded - matrix).abs() <= bound).all())


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize(
    ("values", "role"),
    [
        (covariance(9), Role.MATRIX),
        (torch.stack([covariance(4), 3 * covariance(4)]), Role.MATRIX),
        (covariance(1), Role.MATRIX),
        (draw(5, 70), Role.ENTRIES),
        (draw(130), Role.ENTRIES),
        (draw(0), Role.ENTRIES),
        (draw(7), Role.WEIGHTS),
        (torch.tensor([3, 1], dtype=torch.uint8), Role.BITS),
        (torch.tensor([1, 0], dtype=torch.int32), Role.INDICES),
    ],
    ids=str,
)
def test_writing_again_what_was_read_changes_nothing(
    name: str, values: torch.Tensor, role: Role
) -> None:
    storage, field = STORAGES[name], Field(tuple(values.shape), role)
    stored = storage.encode(values, field)
    announced = storage.tensors(field)
    assert {k: (t.dtype, tuple(t.shape), t.nbytes) for k, t in stored.items()} == {
        k: (getattr(torch, info.dtype), info.shape, info.nbytes)
        for k, info in announced.items()
    }
    again = storage.encode(storage.decode(stored, field), field)
    assert all(torch.equal(again[key], tensor) for key, tensor in stored.items())


def test_symmetric_storage_takes_half_the_entries_and_gives_a_symmetric_matrix() -> (
    None
):
    storage, matrix = STORAGES["symmetric-float32"], covariance(5).float()
    field = matrix_field(5, 5)
    matrix[0, 1] += 1e-7  # as a product in another order would
    stored = storage.encode(matrix, field)
    assert stored[""].shape == (15,)
    decoded = floats(storage.decode(stored, field))
    assert torch.equal(decoded, decoded.mT)


def test_fields_without_a_symmetric_matrix_take_the_plain_form() -> None:
    storage = STORAGES["symmetric-float16"]
    assert (
        storage.for_fields({"values": Field((4,), Role.ENTRIES)}) == STORAGES["float16"]
    )
    assert storage.for_fields({"matrix": matrix_field(4, 4)}) == storage


@pytest.mark.parametrize("entry", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("role", [Role.MATRIX, Role.ENTRIES, Role.WEIGHTS])
def test_a_value_that_no_number_type_holds_is_refused(
    name: str, entry: float, role: Role
) -> None:
    values = covariance(3) if role is Role.MATRIX else draw(3).double()
    values[(1,) * values.dim()] = entry
    with pytest.raises(FormatError):
        STORAGES[name].encode(values, Field(tuple(values.shape), role))


def test_zero_is_a_matrix_like_any_other() -> None:
    field = matrix_field(3, 3)
    for name in STORAGES:
        storage = STORAGES[name]
        zero = storage.decode(storage.encode(torch.zeros(3, 3), field), field)
        assert torch.equal(floats(zero), torch.zeros(3, 3))


@pytest.mark.parametrize(
    "name", ["", "int4", "symmetric-int8", "symmetricfloat16", "-"]
)
def test_an_unknown_storage_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="choose from"):
        STORAGES[name]


@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(-60, 40),
    st.integers(0, 2**31),
)
def test_int8_rows_are_those_of_bitsandbytes_but_for_ties(
    rows: int, columns: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * 2.0**exponent
    ours = Int8Entries.of(values)
    codes, scales, _ = bnb.int8_vectorwise_quant(values)
    assert torch.equal(ours.scales, scales)
    other = ours.codes != codes
    exact = (values.double() * 127 / scales.double()[:, None])[other]
    assert bool(((exact.abs() % 1 - 0.5).abs() < 1e-4).all())
    theirs = bnb.int8_vectorwise_dequant(ours.codes, scales)
    assert torch.equal(ours.floats(), theirs)


def test_an_entry_of_int8_is_off_by_half_a_step_at_most() -> None:
    values = draw(4, 100)
    found = Int8Entries.of(values).floats()
    step = values.abs().amax(1, keepdim=True) / 127
    assert bool(((found - values).abs() <= 0.5001 * step).all())


def test_a_row_too_small_for_a_scale_becomes_zero() -> None:
    values = torch.tensor([[1e-44, 0.0], [2.0, -1.0]])
    found = Int8Entries.of(values)
    found.check()
    assert found.scales.tolist() == [0.0, 2.0]
    assert found.floats()[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (3, 4, 4)])
def test_an_int8_matrix_is_symmetric_with_an_exact_diagonal(
    shape: tuple[int, ...],
) -> None:
    matrix = draw(*shape)
    matrix = matrix + matrix.mT
    found = Int8Matrix.of(matrix).floats()
    assert torch.equal(found, found.mT)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(found.diagonal(dim1=-2, dim2=-1), diagonal)
    step = matrix.triu(1).abs().amax(-1, keepdim=True) / 127
    assert bool(((found - matrix).triu(1).abs() <= 0.5001 * step).all())


@pytest.mark.parametrize("above", [0, 1])
def test_triangles_have_their_rows_one_after_another(above: int) -> None:
    matrix = torch.arange(9.0).view(3, 3)
    packed = to_triangle(matrix, above)
    wanted = [0, 1, 2, 4, 5, 8] if above == 0 else [1, 2, 5]
    assert packed.tolist() == wanted
    unpacked = from_triangle(packed, (3, 3), above)
    assert torch.equal(unpacked.triu(above), matrix.triu(above))
    assert torch.equal(unpacked, unpacked.mT)


@pytest.mark.parametrize(
    "numbers",
    [
        Int8Entries(
            torch.tensor([[1]], dtype=torch.int8), torch.tensor([float("nan")])
        ),
        Int8Entries(torch.tensor([[1]], dtype=torch.int8), torch.tensor([-1.0])),
        Int8Entries(torch.tensor([[-128]], dtype=torch.int8), torch.tensor([1.0])),
    ],
    ids=["nan", "negative", "code"],
)
def test_scales_and_codes_that_no_rounding_gives_are_refused(
    numbers: Int8Entries,
) -> None:
    field = Field((1, 1), Role.ENTRIES)
    with pytest.raises(FormatError):
        STORAGES["int8"].decode(numbers.parts(), field)
