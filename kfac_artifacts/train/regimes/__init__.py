"""How a network moves while it is trained: one file per regime."""

from kfac_artifacts.train.regimes.base import Regime, RegimeMaker, choose_regime

__all__ = ["Regime", "RegimeMaker", "choose_regime"]
