"""Which stored number becomes which number of a network: found by loading addresses.

``transformers`` renames, stacks, cuts and transposes tensors when it loads them, each
version by rules of its own. So nothing is assumed about the rules: a checkpoint of the
same names and shapes is loaded by the same class, whose tensors hold no numbers but can
be told apart. A parameter that lies where a tensor of it lies *is* that tensor. For the
others it is loaded once more with every number the address of its place.
"""

import mmap
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.errors import SourceError, first_line
from kfac_artifacts.sources.silence_libraries import quiet

Shape = tuple[int, ...]
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Probe:
    """A checkpoint without numbers: its tensors take no memory until written to.

    Attributes:
        tensors: The tensors by name; all are parts of one.
        starts: Address of the first number of each.
    """

    def __init__(self, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        total = sum(sizes.values())
        with tempfile.TemporaryFile() as file:  # a hole: neither memory nor disk
            file.truncate(max(total, 1) * dtype.itemsize)
            self._flat = torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=dtype)
        self.tensors: dict[str, Tensor] = {}
        self.starts: dict[str, int] = {}
        start = 0
        for name, shape in shapes.items():
            self.starts[name] = start
            self.tensors[name] = self._flat[start : start + sizes[name]].view(shape)
            start += sizes[name]
        self._names = {t.data_ptr(): n for n, t in self.tensors.items() if t.numel()}

    def name_of(self, tensor: Tensor) -> str | None:
        """Name of the stored tensor that a tensor is, number for number."""
        name = self._names.get(tensor.data_ptr())
        if name is None or not tensor.is_contiguous():
            return None
        probe = self.tensors[name]
        same = tensor.shape == probe.shape and tensor.dtype == probe.dtype
        return name if same else None

    def write_addresses(self, names: Iterable[str]) -> None:
        """Write into every number of some tensors its own address, plus one."""
        for name in names:
            self.number(name, self.starts[name] + 1)

    def number(self, name: str, first: int) -> None:
        """Write consecutive integers, from the first on, into a tensor's numbers."""
        integers = self._flat.view(INTEGERS[self._flat.dtype])
        start, size = self.starts[name], self.tensors[name].numel()
        torch.arange(first, first + size, out=integers[start : start + size])

    def load(self, kind: type[Any], config: Any, **options: Any) -> nn.Module:
        """Build a model of these tensors; see ``load_tensors``."""
        return load_tensors(kind, config, self.tensors, self._flat.dtype, **options)


def load_tensors(
    kind: type[Any],
    config: Any,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    **options: Any,
) -> nn.Module:
    """Build a model of a class and put tensors where they belong.

    Args:
        kind: A class of ``transformers``.
        config: Its configuration.
        tensors: What stands for a checkpoint.
        dtype: Their number type.
        options: Further arguments of the class.

    Returns:
        The model; what the checkpoint lacks is random.

    Raises:
        SourceError: If that fails.
    """
    try:
        with quiet():
            return kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
    except Exception as error:  # a wrong checkpoint may fail anywhere
        raise SourceError(
            f"{kind.__name__} cannot be built to see where its parameters are "
            f"stored ({type(error).__name__}: {first_line(error)})"
        ) from error


def addresses(parameter: Tensor) -> Tensor:
    """Read the addresses of a parameter's numbers; -1 if it is no stored number."""
    flat = parameter.detach().contiguous().view(INTEGERS[parameter.dtype]).reshape(-1)
    return flat.long() - 1
