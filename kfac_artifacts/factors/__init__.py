"""Symmetric factor matrices, one module per structure."""

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.dense import Dense
from kfac_artifacts.factors.diagonal import Diagonal

FACTORS: dict[str, type[Factor]] = {
    "dense": Dense,
    "diagonal": Diagonal,
}

__all__ = ["FACTORS", "Dense", "Diagonal", "Factor"]
