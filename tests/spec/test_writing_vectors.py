"""The cases for writers against the library and the reference writer."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
import reader_values
import torch
import writer

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Factor,
    LowRank,
    Pruned,
)
from kfac_artifacts.format.coding import check_verifiable, encode_factor
from kfac_artifacts.format.factor_info import factor_info
from tests.each import for_each
from tests.spec_refusals import unnoticed

VECTORS = Path(__file__).parents[2] / "spec/vectors/writing"
INDEX: dict[str, dict[str, Any]] = json.loads((VECTORS / "index.json").read_text())
REFUSED = [name for name, case in INDEX.items() if "cites" in case]
WRITTEN = [name for name in INDEX if name not in REFUSED]
SAID = {
    "R9.2.2": "not finite|float32 cannot hold",
    "float16.2": "float16 cannot hold",
    "bfloat16.2": "bfloat16 cannot hold",
    "R9.2.5": "cannot hold",
    "R9.2.3": "not symmetric",
    "int8.4": r"beyond 2\*\*121",
    "R9.2": "entries beyond float32",
    "R14.3": "is indefinite",
}
"""What the library says, by the first rule that a case breaks."""
TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
}


def as_tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, float))


def factor_of(case: dict[str, Any]) -> Factor:
    """The factor of a case, as whoever computes one has it."""
    told, fields = case["structure"]["configuration"], case.get("fields", {})
    name = case["structure"]["name"]
    if name == "low_rank":
        return LowRank(*(as_tensor(values) for values in fields.values()))
    if "matrix" not in case:
        return Diagonal(as_tensor(case.get("table", fields.get("values"))).flatten())
    matrix = as_tensor(case["matrix"])
    if name == "block_diagonal":
        sizes = [size for count, size in told["blocks"] for _ in range(count)]
        order = torch.tensor(case["permutation"]) if told["permuted"] else None
        return BlockDiagonal.of_dense(matrix, sizes, order)
    if name == "pruned":
        return Pruned.of_dense(matrix, told["kept"])
    return Dense(matrix) if name == "dense" else Diagonal(matrix.diagonal())


def encoded(name: str) -> dict[str, dict[str, Any]]:
    """Write the factor of a case with the library."""
    case = INDEX[name]
    (storage,) = (
        own
        for own in map(STORAGES.__getitem__, STORAGES)
        if own.described == NamedConfig(**case["storage"])
    )
    factor = factor_of(case)
    info = factor_info(NamedConfig(**case["structure"]), case["dim"], storage)
    tensors = dict(encode_factor("f", info, factor))
    check_verifiable("f", info, factor)
    return {
        key.removeprefix("f/"): {
            "dtype": TYPES[tensor.dtype],
            "shape": [*tensor.shape],
            "hex": bits(tensor).numpy().tobytes().hex(),
        }
        for key, tensor in tensors.items()
    }


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes in a number type that numpy has."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


@for_each(WRITTEN)
def test_the_library_writes_the_bytes_of_a_case(name: str) -> None:
    assert encoded(name) == INDEX[name]["tensors"]


@for_each(WRITTEN)
def test_the_reference_writer_writes_the_bytes_of_a_case(name: str) -> None:
    found = {
        key: {"dtype": kind, "shape": [*x.shape], "hex": x.tobytes().hex()}
        for key, (kind, x) in writer.write(INDEX[name]).items()
    }
    assert found == INDEX[name]["tensors"]


@for_each(WRITTEN)
def test_the_reader_takes_what_is_written(name: str) -> None:
    case = INDEX[name]
    tensors = case["tensors"]
    told = {key: (tensor["dtype"], tensor["shape"]) for key, tensor in tensors.items()}
    assert told == reader_values.tensors(case)
    data = {key: bytes.fromhex(tensor["hex"]) for key, tensor in tensors.items()}
    reader.sound(name, case, reader_values.decode(case, data))


@for_each(REFUSED)
def test_the_library_refuses_a_case_for_its_reason(name: str) -> None:
    with pytest.raises(FormatError, match=SAID[INDEX[name]["cites"][0]]):
        encoded(name)


@for_each(REFUSED)
def test_the_reference_writer_refuses_a_case_by_its_rule(name: str) -> None:
    number = re.escape(INDEX[name]["cites"][0])
    with pytest.raises(writer.Refused, match=f"^{number}:"):
        writer.write(INDEX[name])


def refused_by_its_rule(name: str) -> None:
    """Write a case, and pass over a refusal by another rule."""
    try:
        writer.write(INDEX[name])
    except writer.Refused as error:
        if str(error).startswith(f"{INDEX[name]['cites'][0]}:"):
            raise


def test_no_refusal_of_the_writer_could_be_left_out_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With any one switched off, a case is no longer refused by its rule."""
    modules = (writer, reader_values)
    found = unnoticed(REFUSED, refused_by_its_rule, modules, (writer,), monkeypatch)
    assert found == set()


def test_every_structure_and_storage_is_written() -> None:
    known = {"dense", "diagonal", "block_diagonal", "low_rank", "pruned"}
    assert {INDEX[name]["structure"]["name"] for name in WRITTEN} == known
    storages = [INDEX[name]["storage"] for name in WRITTEN]
    found = {NamedConfig(**storage) for storage in storages}
    assert found == {STORAGES[name].described for name in STORAGES}
