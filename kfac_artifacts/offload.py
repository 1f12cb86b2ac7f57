"""Factors in the host's memory, copied to where they are used ahead of their turn.

As in TAK, Fig. 8, and with two blocks' factors on the device at any time: those that
are computed with, and the next ones on their way. Copies have a stream of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.factors import SHAPES, Factor

SHARE = 0.5
"""Share of the free memory of a device that factors may take, unless told otherwise."""
APART = ("cuda", "xpu")
"""Devices whose memory is another one than the host's, and that have streams."""
_NUMBER = 4  # bytes of a float32


def stays_in_host(artifact: Artifact, device: torch.device, place: str) -> bool:
    """Decide where the factors of an artifact are held.

    Args:
        artifact: The curvature.
        device: Where they are used.
        place: One of ``choices.FACTOR_PLACES``; ``auto`` is the device if they fit
            into half of its free memory.

    Returns:
        Whether they are held in the host's memory although they are used elsewhere.
    """
    if device.type not in APART or place == "device":
        return False
    if place == "host":
        return True
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return _bytes(artifact) > SHARE * free


def _bytes(artifact: Artifact) -> int:
    """What the factors take in float32; as int8 they take less."""
    sizes = {
        name: dim
        for block in artifact.blocks.values()
        for name, dim in block.all_sizes(
            artifact.parameters, artifact.factors.structure
        )
    }
    total = 0
    for name, dim in sizes.items():
        structure = artifact.factors.structure(name)
        fields = SHAPES[structure.name](dim, structure.configuration).values()
        total += _NUMBER * sum(prod(field.shape) for field in fields)
    return total


def _pinned(factor: Factor, device: torch.device) -> Factor:
    """A copy in pinned memory; without such a device nothing can be pinned."""
    pins = device.type in APART
    return factor.changed(torch.Tensor.pin_memory) if pins else factor


class CopiedAhead:
    """Factors in pinned memory, given on a device in turn.

    Their memory on the device is of the pool of the stream that copies. It waits for
    what is computed with one block before it copies the next but one, so what a block
    leaves may be overwritten then, and nothing else can take it.

    Args:
        factors: The factors by name, in the host's memory; they are taken out of it, as
            all of them twice may be more than there is.
        device: Where they are used.
    """

    def __init__(self, factors: dict[str, Factor], device: torch.device) -> None:
        self.factors = {name: _pinned(factors.pop(name), device) for name in [*factors]}
        self.device = device
        self._streams: Any = torch.get_device_module(device)
        self._copying = self._streams.Stream(device)

    def in_turn(self, turns: Sequence[Sequence[str]]) -> Iterator[dict[str, Factor]]:
        """Give the factors of every turn on the device, while the next ones come.

        Args:
            turns: Names of factors; what two turns have one after the other is copied
                once.

        Yields:
            Factors by name; the mapping is empty once the next turn is asked for.
        """
        coming = self._copy(turns[0], {})
        for following in [*turns[1:], ()]:
            here, arrived = coming
            coming = self._copy(following, here)
            self._streams.current_stream(self.device).wait_event(arrived)
            yield here
            here.clear()

    def _copy(
        self, names: Sequence[str], here: Mapping[str, Factor]
    ) -> tuple[dict[str, Factor], Any]:
        """Begin to copy what is not here; also an event that tells when it is there."""
        self._copying.wait_stream(self._streams.current_stream(self.device))
        with self._streams.stream(self._copying):
            found = {
                name: here[name] if name in here else self.factors[name].to(self.device)
                for name in names
            }
            return found, self._copying.record_event()
