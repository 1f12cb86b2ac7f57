"""The numbers of task vectors and heads, on their way to a file and back."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import (
    FileInfo,
    TensorInfo,
    check_tensors,
    open_tensors,
    sha256_file,
)


def storable(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor as it is stored: float32, on the CPU.

    Args:
        name: Of the tensor, for the error.
        tensor: The tensor.

    Returns:
        The same numbers.

    Raises:
        FormatError: If one of them is not finite.
    """
    value = tensor.detach().to("cpu", torch.float32).contiguous()
    _check_finite(name, value)
    return value


def read_tensors(
    path: Path, file: FileInfo, infos: Mapping[str, TensorInfo]
) -> dict[str, Tensor]:
    """Read all tensors, after checking size, hash and header of their file.

    Args:
        path: The file.
        file: What size and hash it must have.
        infos: The tensors that it must hold.

    Returns:
        The tensors by name.

    Raises:
        FormatError: If it holds anything else, or a number that is not finite.
    """
    if not path.is_file() or path.stat().st_size != file.size:
        raise FormatError(
            f"{path} is missing or does not have the {file.size} bytes that "
            "the manifest says; fetch it again"
        )
    if sha256_file(path) != file.sha256:
        raise FormatError(
            f"{path} was damaged or changed: its sha256 is not the one in the "
            "manifest; fetch it again"
        )
    check_tensors(path, infos)
    opened = open_tensors(path)
    try:
        tensors = {name: opened.get_tensor(name) for name in infos}
    except SafetensorError as error:  # since its header was checked
        raise FormatError(f"{path} was changed while it was read: {error}") from error
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    return tensors


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise FormatError(f"{name} has entries that are not finite; train it again")
