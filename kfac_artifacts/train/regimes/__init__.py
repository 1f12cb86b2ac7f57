"""How a network moves while it is trained: one file per regime."""

from kfac_artifacts.train.regimes.base import Regime

__all__ = ["Regime"]
