"""Estimators that can hide each example by noise: those of one pass over the data."""

from abc import ABC
from dataclasses import dataclass

from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.capture import Layer
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.estimate.private.accumulator import reason_against_noise
from kfac_artifacts.estimate.private.noise import GaussianNoise


@dataclass(frozen=True)
class HidingEstimator(Estimator, ABC):
    """An estimator whose factors are means of what examples contribute.

    Attributes:
        noise: The differential privacy that each example gets by clipping and noise, or
            None.
    """

    noise: GaussianNoise | None = None

    @property
    @override
    def hides(self) -> bool:
        return self.noise is not None

    @override
    def check(self, examples: int) -> None:
        if self.noise is not None:
            self.noise.check(examples)

    @override
    def reason_against(self, layer: Layer) -> str | None:
        return None if self.noise is None else reason_against_noise(layer)

    @override
    def settings(self) -> dict[str, Json]:
        return {"name": self.name, "hides": self.hides}
