"""Holding back what other libraries train: adapters of ``peft``, and whole models."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.tuning.adapters import adapted_layers as adapted_layers
    from kfac_artifacts.tuning.callback import KfacCallback as KfacCallback
    from kfac_artifacts.tuning.forms import LowRankChange as LowRankChange
    from kfac_artifacts.tuning.low_rank import (
        LowRankPenalty as LowRankPenalty,
        backward_through as backward_through,
    )
    from kfac_artifacts.tuning.models import ModelPenalty as ModelPenalty
    from kfac_artifacts.tuning.naming import find_naming as find_naming

export_lazily(__name__)
