"""τJp: the drift on the very data of the other tasks (Yoshida et al., ICLR 2025).

What the curvature stands for, with nothing approximated, and with everybody's data: the
upper reference. Each step takes a batch of one of the other tasks, in turn.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.penalties.base import Others, Penalty, PenaltySettings

BATCH_SIZE = 16
FINGERPRINTED = 256


class TauJp(Penalty):
    """``(1/n) Σ_x ‖J(x) τ‖²`` over a batch of another task; the square, as in TAK.

    The authors' code takes the norm itself. Tasks have turns, whatever their sizes.

    Args:
        others: Data of the other tasks.
        settings: How much it counts.
        batch_size: Examples per step.
    """

    usual_weight = 10.0
    needs = ("examples",)

    def __init__(
        self, others: Others, settings: PenaltySettings, *, batch_size: int = BATCH_SIZE
    ) -> None:
        self.data = others.examples
        self.settings = settings
        self.batch_size = batch_size
        self._step = 0

    @override
    def prepare(self, network: Network, names: Sequence[str]) -> None:
        self.network = network

    @override
    def begin(self, step: int) -> None:
        self._step = step

    @override
    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        batch, count = self._batch()
        _, change = jvp(self.network, tau, batch)
        wide = change.to(torch.promote_types(change.dtype, torch.float32))
        return wide.square().sum() / count

    def _batch(self) -> tuple[Batch, int]:
        """The examples of this step, by its number and nothing else."""
        turn = self._step // self.settings.every
        round_, task = divmod(turn, len(self.data))
        examples = self.data[task]
        size = min(self.batch_size, len(examples))
        epoch, place = divmod(round_, len(examples) // size)
        generator = seeded(f"tau-jp {task} {epoch}")
        order = torch.randperm(len(examples), generator=generator).tolist()
        chosen = order[place * size : (place + 1) * size]
        return examples.batch(sorted(chosen)), size

    @override
    def describe(self) -> dict[str, Json]:
        infos = [e.info(range(min(len(e), FINGERPRINTED))) for e in self.data]
        data: list[Json] = [
            {"data": info.id, "fingerprint": info.fingerprint, "size": info.size}
            for info in infos
        ]
        about: dict[str, Json] = {"name": "tau-jp", "batch_size": self.batch_size}
        return {"penalty": {**about, "others": data}}
