"""Files of strangers: no pickle is run, nothing read before its size is known."""

import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kfac_artifacts.bridges.statistics import Numbers, held
from kfac_artifacts.errors import FormatError, SourceError, first_line

BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError)
"""What reading a damaged archive of arrays raises."""
MOST_PICKLED = 64 * 2**20
"""Bytes of the description of a file of torch, which is read whole."""


def require_file(path: Path) -> Path:
    """Refuse what is no regular file.

    Args:
        path: The file; links are followed.

    Returns:
        The same path.

    Raises:
        SourceError: If there is none.
    """
    if not path.is_file():
        raise SourceError(f"{path} does not exist, or is no file")
    return path


def load_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote, its tensors mapped into memory.

    Args:
        path: The file; only tensors, numbers, texts and containers may be in it.

    Returns:
        What was saved.

    Raises:
        FormatError: If it is no such file, of the format from before torch 1.6, has
            anything else in it, or compressed parts, whose size nobody knows.
    """
    _check_zip(require_file(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        raise FormatError(f"{path} cannot be read: {first_line(error)}") from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile as error:
        raise FormatError(
            f"{path} is no file of torch.save, or older than torch 1.6; save it again"
        ) from error
    for part in parts:
        small = not part.filename.endswith(".pkl") or part.file_size <= MOST_PICKLED
        if part.compress_type != zipfile.ZIP_STORED or not small:
            raise FormatError(f"{path}: {part.filename} is compressed, or too large")


def tensors_of(value: object, where: str) -> dict[str, Tensor]:
    """Take a dictionary of dense tensors that hold as many numbers as they show.

    Args:
        value: What was read.
        where: What to call it in messages.

    Returns:
        The tensors by name.

    Raises:
        FormatError: If it is anything else.
    """
    if not isinstance(value, Mapping) or not value:
        raise FormatError(f"{where} is no dictionary of tensors")
    for name, tensor in value.items():
        plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided
        plain = plain and not tensor.is_quantized
        if not isinstance(name, str) or not plain:
            raise FormatError(f"{where}: {name!r:.60} is no name of a dense tensor")
        size = tensor.numel() * tensor.element_size()
        if tensor.is_complex() or size > tensor.untyped_storage().nbytes():
            raise FormatError(f"{where}: {name} has more entries than numbers")
    return dict(value)


def read_tensors(path: Path) -> dict[str, Numbers]:
    """Read tensors by name from a file of torch, of safetensors or of numpy (npz).

    Args:
        path: The file; its ending says which.

    Returns:
        The arrays by name.

    Raises:
        FormatError: If it cannot be read.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return read_npz(path)
    found = tensors_of(load_torch(path), str(path))
    return {name: held(tensor) for name, tensor in found.items()}


def read_safetensors(path: Path) -> dict[str, Numbers]:
    """Read the names and shapes of a safetensors file, and tensors when asked for.

    Args:
        path: The file.

    Returns:
        The arrays by name.

    Raises:
        FormatError: If it cannot be read.
    """
    try:
        with safe_open(require_file(path), framework="pt") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} cannot be read: {first_line(error)}") from error

    def get(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found

    return {n: Numbers(shape, lambda n=n: get(n)) for n, shape in shapes.items()}  # type: ignore[misc]


def read_npz(path: Path) -> dict[str, Numbers]:
    """Read the names and shapes of an npz file, and arrays when asked for.

    Args:
        path: The file.

    Returns:
        The arrays of numbers by name; texts are left out.

    Raises:
        FormatError: If it cannot be read, or would have to be unpickled.
    """

    def get(name: str) -> Tensor:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return torch.from_numpy(archive[name])
        except BROKEN as error:
            raise FormatError(f"{path} cannot be read: {first_line(error)}") from error

    found = {}
    try:
        with zipfile.ZipFile(require_file(path)) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    reader = getattr(
                        np.lib.format, f"read_array_header_{version[0]}_{version[1]}"
                    )
                    shape, _, dtype = reader(file)
                if dtype.hasobject:
                    raise FormatError(f"{path}: {name} would have to be unpickled")
                if dtype.kind in "fiu":
                    key = name.removesuffix(".npy")
                    found[key] = Numbers(tuple(shape), lambda key=key: get(key))  # type: ignore[misc]
    except (*BROKEN, AttributeError) as error:
        raise FormatError(f"{path} cannot be read: {first_line(error)}") from error
    return found


def sha256_of(files: Sequence[Path]) -> str:
    """Hash files with their names, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            own = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name} {own}\n".encode())
    return digest.hexdigest()
