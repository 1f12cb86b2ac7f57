"""How well an artifact predicts drift on data that it has not seen."""

from kfac_artifacts.fidelity.agreement import Agreement, agreement
from kfac_artifacts.fidelity.measure import fidelity
from kfac_artifacts.fidelity.plot import plot_fidelity
from kfac_artifacts.fidelity.results import (
    Comparison,
    Directions,
    Drift,
    Fidelity,
    HeldOut,
    ModuleFidelity,
)
from kfac_artifacts.fidelity.verdict import verdict

__all__ = [
    "Agreement",
    "Comparison",
    "Directions",
    "Drift",
    "Fidelity",
    "HeldOut",
    "ModuleFidelity",
    "agreement",
    "fidelity",
    "plot_fidelity",
    "verdict",
]
