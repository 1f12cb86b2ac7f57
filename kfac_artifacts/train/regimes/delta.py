"""DELTA: an ordinary network taught by a linearised one (Porrello et al., ICML 2026).

Both learn the task at once, each with a task vector of its own that the penalty holds
back, and the outputs of the ordinary one are drawn to those of the linearised one, at
points along the line through θ0:

    CE(f(θ0 + α τ)) + CE(f0 + α J τ') + weight · ‖f(θ0 + α τ) − (f0 + α J τ')‖²

α is drawn anew for each step from an interval that grows from 1 to ``path`` with the
square root of the share of steps that are done; nothing is pulled back from the third
term into τ'.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.linearize import linear_output
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded
from kfac_artifacts.train.regimes.base import Regime, TaskLoss
from kfac_artifacts.train.regimes.linearised import Linearised
from kfac_artifacts.train.regimes.ordinary import Ordinary
from kfac_artifacts.train.task import Learning


class Delta(Regime):
    """An ordinary network, drawn to a linearised one that learns the same.

    Args:
        network: The pretrained network; it is left as it is.
        names: Names of the parameters that may move.
        path: The smallest and the largest α.
        draw: Weight of the squared distance of the outputs, a mean over examples of
            sums over the entries of f.

    Raises:
        SettingsError: If 1 is not between the ends of the path, or the weight is
            negative.
    """

    mode = "plain"

    def __init__(
        self,
        network: Network,
        names: Sequence[str],
        *,
        path: tuple[float, float] = (0.5, 2.0),
        draw: float = 1.0,
    ) -> None:
        low, high = path
        if not 0 < low <= 1 <= high < float("inf") or not 0 <= draw < float("inf"):
            raise SettingsError(
                f"the path of delta must go from above 0 past 1, and draw be at least "
                f"0, found {path} and {draw}"
            )
        super().__init__(network, names)
        self.student = Ordinary(network, names)
        self.teacher = Linearised(network, names)
        self.path, self.draw = (float(low), float(high)), float(draw)
        self.alpha, self._seed, self._steps = 1.0, 0, 1

    @override
    def prepare(self, learning: Learning) -> None:
        self._seed, self._steps = learning.settings.seed, learning.settings.steps

    @override
    def begin(self, step: int) -> None:
        generator = seeded(f"delta {self._seed} {step}")
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        width = (step / self._steps) ** 0.5
        low, high = (1 + (end - 1) * width for end in self.path)
        self.alpha = low + (high - low) * share

    @override
    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        return self.network.moved(self._along(self.student.tau()), batch)

    @override
    def loss_beside(
        self, batch: Batch, output: Float[Tensor, "n c"], task_loss: TaskLoss
    ) -> Float[Tensor, ""]:
        taught = linear_output(self.network, self._along(self.teacher.tau()), batch)
        distance = (output - taught.detach()).square().sum()
        return task_loss(taught) + self.draw * distance

    @override
    def tau(self) -> dict[str, Tensor]:
        return self.student.tau()

    @override
    def held_back(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.student.tau(), self.teacher.tau()

    @override
    def describe(self) -> dict[str, Json]:
        about: dict[str, Json] = {"name": "delta", "path": list(self.path)}
        return {"regime": {**about, "draw": self.draw}}

    @override
    def state(self) -> dict[str, Tensor]:
        return {
            f"{whose}/{name}": change
            for whose, own in (("student", self.student), ("teacher", self.teacher))
            for name, change in own.tau().items()
        }

    def _along(self, tau: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.alpha * change for name, change in tau.items()}
