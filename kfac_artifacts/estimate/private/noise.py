r"""The Gaussian mechanism on all factors at once, and what is made of its output.

The contributions of an example to L factors are clipped to Frobenius norms c_l and
divided by them; laid side by side they are one vector of norm √L at most. All of them
are positive semidefinite, so that two examples have no negative inner product, and if
one example is *replaced* by another the sum moves by at most Δ = √(2 L). It is released
once, with noise of standard deviation z Δ in every direction: one query, so that there
is nothing to compose, and z follows from ε and δ by the analytic Gaussian mechanism
(Balle & Wang 2018), as Google's ``dp-accounting`` reckons it. The number of examples is
public. What is done to the sum afterwards costs no privacy.

Among symmetric matrices, with the Frobenius norm, noise of σ in every direction is
N(0, σ²) on the diagonal and N(0, σ²/2) off it: ``(Z + Zᵀ) / 2`` of independent entries.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from kfac_artifacts.artifact import Privacy
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Examples

BITS = 53
ROUNDING = 1e-6
"""By how much more than Δ rounding of float64 may move a sum, amply."""


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Which guarantee is wanted, and how contributions are clipped.

    Attributes:
        epsilon: ε > 0.
        delta: δ between 0 and 1; less than one over the number of examples.
        clip: Largest Frobenius norm of an example's contribution to each factor, by
            factor; or public data, of whose contributions it is the median. It must not
            depend on the examples that are to be hidden.
    """

    epsilon: float
    delta: float
    clip: Examples | Mapping[str, float]

    def check(self, examples: int) -> None:
        """Refuse a guarantee that is none.

        Args:
            examples: How many are to be hidden.

        Raises:
            SettingsError: If ε or δ is impossible, or δ lets whole examples through.
        """
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise SettingsError(
                f"epsilon {self.epsilon} must be positive, and delta {self.delta} "
                "between 0 and 1"
            )
        if self.delta * examples >= 1:
            raise SettingsError(
                f"delta {self.delta} is no guarantee for {examples} examples, one of "
                "which may then be published whole; give much less than "
                f"{1 / examples:.1e}"
            )

    def guaranteed(self, clip: Mapping[str, float]) -> Privacy:
        """Say what is guaranteed with these clip norms, by how much noise.

        Args:
            clip: Of every factor that is published.

        Returns:
            What the manifest says.
        """
        multiplier = _multiplier(self.epsilon, self.delta)
        return Privacy(self.epsilon, self.delta, multiplier, dict(clip))


def deviation(privacy: Privacy, factor: str, examples: int) -> float:
    """Standard deviation σ of the noise in every direction of a factor's mean."""
    sensitivity = math.sqrt(2 * len(privacy.clip)) * (1 + ROUNDING)
    return privacy.noise_multiplier * sensitivity * privacy.clip[factor] / examples


def with_noise(mean: Float[Tensor, "d d"], sigma: float) -> Float[Tensor, "d d"]:
    """Add symmetric noise of σ in every direction, different every time.

    Args:
        mean: The mean of contributions.
        sigma: Standard deviation.

    Returns:
        What may be published.
    """
    # From the system's secure source, and never from a seed: the manifest has the seed
    # of the run, and whoever can draw the noise again can subtract it.
    Z = torch.from_numpy(_secret_normals(mean.numel())).view_as(mean).to(mean)
    return mean + sigma * (Z + Z.mT) / 2


def cleaned(matrix: Float[Tensor, "d d"], sigma: float) -> Float[Tensor, "d d"]:
    """Make the likeliest positive semidefinite matrix of one with noise.

    Noise spreads eigenvalues of 0 over a semicircle of radius ``r = σ √(2 d)``. What
    does not stand out of it is dropped, and what does is shrunk to ``√(λ² − r²)``,
    which is best in the Frobenius norm for few eigenvalues that do (Benaych-Georges &
    Nadakuditi 2011: λ is a true θ + r²/4θ, its vector turned by r²/4θ²).

    Args:
        matrix: Symmetric, with noise.
        sigma: Standard deviation of the noise in every direction.

    Returns:
        A positive semidefinite matrix.
    """
    radius = sigma * math.sqrt(2 * len(matrix))
    values, vectors = torch.linalg.eigh(matrix)
    kept = (values.clamp(min=radius).square() - radius**2).sqrt()
    return (vectors * kept) @ vectors.mT


def _secret_normals(count: int) -> Float[np.ndarray, " n"]:
    bits = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(64 - BITS)
    found: np.ndarray = ndtri((bits + 0.5) / 2.0**BITS)
    return found


def _multiplier(epsilon: float, delta: float) -> float:
    """Noise per unit of sensitivity."""
    try:
        from dp_accounting import (  # noqa: PLC0415 - an extra
            get_sigma_gaussian,
        )
    except ImportError as error:
        raise SettingsError(
            "noise is reckoned by dp-accounting: pip install 'kfac-artifacts[dp]'"
        ) from error
    with np.errstate(divide="ignore"):  # it compares with the logarithm of zero
        return float(get_sigma_gaussian(epsilon, delta))
