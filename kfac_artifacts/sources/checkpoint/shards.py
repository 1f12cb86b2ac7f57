"""The safetensors files that hold a model's weights, read and rewritten in place.

Files are copied byte for byte and only the numbers that change are written over, one
tensor at a time: header, metadata, order and number types stay what they were.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kfac_artifacts.errors import MismatchError, SourceError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
REAL = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
CODES = {dtype: code for code, dtype in REAL.items()}


@dataclass(frozen=True)
class Stored:
    """Where one tensor is: the name of its number type, its shape, its bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class Shard:
    """One safetensors file.

    Attributes:
        path: The file.
        metadata: What its header holds beside the tensors.
        tensors: Its tensors, in the order of their bytes.
        start: Where the bytes of the tensors begin.
    """

    path: Path
    metadata: dict[str, str] | None
    tensors: dict[str, Stored]
    start: int

    @cached_property
    def file(self) -> Any:
        """The library's handle, which maps the file into memory."""
        return safe_open(self.path, framework="pt", device="cpu")

    def load(self, name: str) -> Tensor:
        """Read a tensor into memory of its own: no page of the file stays mapped."""
        info = self.tensors[name]
        value = torch.empty(info.shape, dtype=REAL[info.dtype])
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + info.begin)
            view = memoryview(_bytes(value)).cast("B")
            while len(view):
                count = file.readinto(view)
                if not count:
                    raise SourceError(f"{self.path} ends within {name}")
                view = view[count:]
        return value

    def content(self, name: str, info: Stored) -> Any:
        """The bytes of a tensor in the number type of another description of it."""
        old = self.tensors[name]
        if old.dtype in REAL:
            return _bytes(_rounded(name, self.file.get_tensor(name), info))
        with self.path.open("rb") as file:
            file.seek(self.start + old.begin)
            return file.read(old.end - old.begin)

    def converted(self, dtype: torch.dtype) -> "Shard":
        """The same tensors, the real ones in another number type; nothing is read."""
        found, offset = {}, 0
        for name, old in self.tensors.items():
            code, size = old.dtype, old.end - old.begin
            if code in REAL:
                size = size // REAL[code].itemsize * dtype.itemsize
                code = CODES[dtype]
            found[name] = Stored(code, old.shape, offset, offset + size)
            offset += size
        shard = Shard(self.path, self.metadata, found, 0)
        return Shard(self.path, self.metadata, found, len(shard.header()))

    def header(self) -> bytes:
        """Write the header that says where everything is."""
        content: dict[str, Any] = {}
        if self.metadata is not None:
            content["__metadata__"] = self.metadata
        for name, info in self.tensors.items():
            offsets = [info.begin, info.end]
            content[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": offsets,
            }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All weights of a model.

    Attributes:
        directory: Where its files are.
        shards: The files with weights.
        index: The file that says which tensor is in which of them, if there is one.
    """

    directory: Path
    shards: tuple[Shard, ...]
    index: Path | None = None
    _owners: dict[str, Shard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for shard in self.shards:
            for name in shard.tensors:
                if self._owners.setdefault(name, shard) is not shard:
                    raise SourceError(
                        f"{name} is in {self._owners[name].path.name} and in "
                        f"{shard.path.name}; which of them counts is not known"
                    )

    @property
    def files(self) -> list[Path]:
        """Every file that belongs to the weights."""
        return [s.path for s in self.shards] + ([self.index] if self.index else [])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor."""
        return {n: s.tensors[n].shape for n, s in self._owners.items()}

    def dtype(self, name: str) -> torch.dtype | None:
        """Number type of a tensor; None if it does not hold plain real numbers."""
        return REAL.get(self._owners[name].tensors[name].dtype)

    def read(self, name: str) -> Tensor:
        """Read one tensor as it is stored; pages come from the file when touched."""
        return self._owners[name].file.get_tensor(name)

    def load(self, name: str) -> Tensor:
        """Read one tensor as it is stored, into memory of its own."""
        return self._owners[name].load(name)

    def copy(self, directory: Path, dtype: torch.dtype | None) -> "Checkpoint":
        """Copy the weights, in another number type if one is asked for.

        Args:
            directory: Where to write.
            dtype: Number type of all real tensors; None to keep those that they have.

        Returns:
            The copy.

        Raises:
            MismatchError: If a number is too large for the number type.
        """
        copies = []
        for shard in self.shards:
            target = directory / shard.path.name
            if dtype is None:
                shutil.copyfile(shard.path, target)
                copy = Shard(target, shard.metadata, shard.tensors, shard.start)
            else:
                new = shard.converted(dtype)
                with target.open("xb") as file:
                    file.write(new.header())
                    for name, info in new.tensors.items():
                        file.write(shard.content(name, info))
                copy = Shard(target, new.metadata, new.tensors, new.start)
            copies.append(copy)
        return Checkpoint(directory, tuple(copies), self._copy_index(directory, copies))

    def _copy_index(self, directory: Path, copies: Iterable[Shard]) -> Path | None:
        if self.index is None:
            return None
        target = directory / self.index.name
        content = json.loads(self.index.read_text("utf-8"))
        sizes = [max((t.end for t in s.tensors.values()), default=0) for s in copies]
        metadata = content.get("metadata")
        old = sum(t.end - t.begin for s in self.shards for t in s.tensors.values())
        if sum(sizes) == old or not isinstance(metadata, dict):
            shutil.copyfile(self.index, target)
            return target
        metadata["total_size"] = sum(sizes)
        target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return target

    def overwrite(self, name: str, value: Tensor, where: Tensor | None) -> Tensor:
        """Write other numbers into a tensor, rounded once to its number type.

        Args:
            name: Name of a stored tensor of real numbers.
            value: The numbers.
            where: Which of the tensor's numbers they are, in its own order; None for
                all.

        Returns:
            The numbers as they were written.

        Raises:
            MismatchError: If a number is too large for that number type.
        """
        shard = self._owners[name]
        info = shard.tensors[name]
        rounded = _rounded(name, value, info)
        with shard.path.open("r+b") as file:
            if where is None:
                content = rounded
            else:
                file.seek(shard.start + info.begin)
                old = bytearray(file.read(info.end - info.begin))
                content = torch.frombuffer(old, dtype=rounded.dtype)
                content[where] = rounded
            file.seek(shard.start + info.begin)
            file.write(_bytes(content))
        return rounded


def open_checkpoint(directory: Path, model_id: str) -> Checkpoint:
    """Read the headers of a model's weights: those that ``transformers`` would load.

    Args:
        directory: Where the files are.
        model_id: What to call the model in errors.

    Returns:
        The weights.

    Raises:
        SourceError: If there are none, or a file is missing or no safetensors file.
    """
    if (directory / WEIGHTS).is_file():
        return Checkpoint(directory, (_open_shard(directory / WEIGHTS),))
    index = directory / INDEX
    if not index.is_file():
        raise SourceError(
            f"{model_id} has no safetensors weights ({WEIGHTS} or {INDEX}); other "
            "formats can run code when they are read"
        )
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{index} does not say where the weights are") from error
    outside = [n for n in names if Path(str(n)).name != n]
    if outside or not names:
        raise SourceError(f"{index} names no file beside it: {outside[:3]}")
    return Checkpoint(
        directory, tuple(_open_shard(directory / n) for n in names), index
    )


def _open_shard(path: Path) -> Shard:
    try:
        with safe_open(path, framework="pt") as file:  # it checks everything
            file.keys()
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise SourceError(f"{path} is not a valid safetensors file: {error}") from error
    metadata = header.pop("__metadata__", None)
    found = {
        name: Stored(info["dtype"], tuple(info["shape"]), *info["data_offsets"])
        for name, info in header.items()
    }
    ordered = dict(sorted(found.items(), key=lambda item: item[1].begin))
    return Shard(path, metadata, ordered, 8 + length)


def _rounded(name: str, value: Tensor, info: Stored) -> Tensor:
    rounded = value.to(REAL[info.dtype])
    if bool((value.isfinite() & ~rounded.isfinite()).any()):
        raise MismatchError(
            f"{name} holds numbers up to {float(value.abs().max()):.3g}, which are too "
            f"large for {str(rounded.dtype).removeprefix('torch.')}; write another "
            "number type"
        )
    return rounded


def _bytes(value: Tensor) -> Any:
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
