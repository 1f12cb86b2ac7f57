"""Hidden states and their gradients, kept in memory or on disk between two blocks."""

import math
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.format import dump_json, read_json, write_durably


class States(ABC):
    """Tensors by the place of their batch, one or several of each.

    Attributes:
        finished: Whether all are there.
    """

    finished = False

    @abstractmethod
    def put(self, place: int, tensor: Tensor) -> None:
        """Keep a tensor, behind those that the place has."""

    @abstractmethod
    def get(self, place: int, number: int = 0) -> Tensor:
        """Give a tensor of a place, on the CPU, in memory of its own."""

    @abstractmethod
    def count(self, place: int) -> int:
        """How many tensors a place has."""

    @abstractmethod
    def finish(self) -> None:
        """Say that all are there."""

    @abstractmethod
    def remove(self) -> None:
        """Forget all."""


@final
class HeldStates(States):
    """Tensors in memory."""

    def __init__(self) -> None:
        self._tensors: dict[int, list[Tensor]] = defaultdict(list)

    @override
    def put(self, place: int, tensor: Tensor) -> None:
        self._tensors[place].append(tensor.detach().to("cpu", copy=True))

    @override
    def get(self, place: int, number: int = 0) -> Tensor:
        return self._tensors[place][number].clone()

    @override
    def count(self, place: int) -> int:
        return len(self._tensors[place])

    @override
    def finish(self) -> None:
        self.finished = True

    @override
    def remove(self) -> None:
        self._tensors.clear()
        self.finished = False


@final
class StoredStates(States):
    """Tensors in a file, which says so once all of them are there.

    Files are read, not mapped: no page of them counts as memory of the process.

    Args:
        path: The file; beside it is one that says what is in it.
        settings: What must be the same for them to be used again.

    Raises:
        FormatError: If what is there is damaged.
        MismatchError: If it is of a job with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Json]) -> None:
        self._path, self._about = path, path.with_suffix(".json")
        self._settings = settings
        self._places: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if self._about.is_file():
            self._restore(read_json(self._about))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)

    def _restore(self, about: Any) -> None:
        if about["settings"] != self._settings:
            raise MismatchError(
                f"{self._path} is of another job (model, data, options or batch size); "
                "begin without --resume"
            )
        if not self._path.is_file() or self._path.stat().st_size != about["bytes"]:
            raise FormatError(f"{self._path} is damaged; begin without --resume")
        self._places |= about["tensors"]
        self.finished = True

    @override
    def put(self, place: int, tensor: Tensor) -> None:
        value = tensor.detach().cpu().contiguous()
        with self._path.open("ab") as file:
            about = {
                "offset": file.tell(),
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
            }
            file.write(value.reshape(-1).view(torch.uint8).numpy().data)
        self._places[str(place)].append(about)

    @override
    def get(self, place: int, number: int = 0) -> Tensor:
        about = self._places[str(place)][number]
        dtype = getattr(torch, about["dtype"])
        value = torch.empty(math.prod(about["shape"]), dtype=dtype)
        with self._path.open("rb") as file:
            file.seek(about["offset"])
            read = file.readinto(value.view(torch.uint8).numpy().data)
        if read != value.nbytes:
            raise FormatError(f"{self._path} is damaged; begin without --resume")
        return value.view(about["shape"])

    @override
    def count(self, place: int) -> int:
        return len(self._places[str(place)])

    @override
    def finish(self) -> None:
        with self._path.open("ab") as file:
            os.fsync(file.fileno())
            size = file.tell()
        about = {"settings": self._settings, "bytes": size, "tensors": self._places}
        write_durably(self._about, dump_json(about))
        self.finished = True

    @override
    def remove(self) -> None:
        self._about.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self._places.clear()
        self.finished = False
