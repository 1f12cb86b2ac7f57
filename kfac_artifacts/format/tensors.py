"""Safetensors files: written as a stream, opened with distrust.

The `safetensors` library reads and validates; writing is done here, because its writer
wants every tensor of a file in memory at once and merging holds one block at a time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format.files import sync
from kfac_artifacts.format.manifest import FileInfo
from kfac_artifacts.format.storage.base import TensorInfo
from kfac_artifacts.format.tensor_header import NAMES, check_header


def write_tensors(
    path: Path, infos: Mapping[str, TensorInfo], tensors: Iterable[tuple[str, Tensor]]
) -> FileInfo:
    """Write a safetensors file, one tensor at a time, hashing as it goes.

    Args:
        path: The file; it must not exist.
        infos: What the tensors will be, in the order in which they come.
        tensors: The tensors, contiguous and on the CPU, in the same order.

    Returns:
        Size and hash of the file.

    Raises:
        FormatError: If a tensor is not what was announced.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:
        header = _header(infos)
        digest.update(header)
        file.write(header)
        for (name, info), (given, tensor) in zip(infos.items(), tensors, strict=True):
            if name != given or tuple(tensor.shape) != info.shape:
                raise FormatError(f"{given} of {list(tensor.shape)} is not {name}")
            flat = tensor.as_strided((tensor.numel(),), (1,))  # one entry: any stride
            content = flat.view(torch.uint8).numpy().data
            digest.update(content)
            file.write(content)
        size = file.tell()
        file.flush()
        sync(file.fileno())
    return FileInfo(size, digest.hexdigest())


def _header(infos: Mapping[str, TensorInfo]) -> bytes:
    header: dict[str, Any] = {}
    offset = 0
    for name, info in infos.items():
        end = offset + info.nbytes
        header[name] = {
            "dtype": NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_tensors(path: Path, infos: Mapping[str, TensorInfo]) -> None:
    """Check a file's header, and that the library takes it; see ``check_header``."""
    check_header(path, infos)
    require_accepted(path)


def require_accepted(path: Path) -> None:
    """Ask the library whether it takes a file, which takes no memory for its tensors.

    Args:
        path: A safetensors file.

    Raises:
        FormatError: If the library refuses it.
    """
    try:
        safe_open(path, framework="np")  # for torch it maps all of it to be written to
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a valid safetensors file: {error}") from error


def open_tensors(path: Path) -> Any:
    """Open and map a file for reading single tensors.

    Args:
        path: A safetensors file.

    Returns:
        The library's handle.

    Raises:
        FormatError: If the library refuses the file, or it is replaced just now.
    """
    try:
        handle: Any = safe_open(path, framework="pt", device="cpu")
        for key in handle.keys():  # noqa: SIM118 - it is no mapping
            handle.get_tensor(key)  # the library maps the file at the first look
            break
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a valid safetensors file: {error}") from error
    except RuntimeError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    return handle
