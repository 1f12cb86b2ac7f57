"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.capture.sample import require_rows
from kfac_artifacts.chosen import choose
from kfac_artifacts.estimate.checkpointing import discard, hold_together, kept_in
from kfac_artifacts.estimate.compute import compute
from kfac_artifacts.estimate.curvlinops_engine.engine import compute_with_curvlinops
from kfac_artifacts.estimate.distributed.owned_factors import (
    DealtFactors,
    save_together,
)
from kfac_artifacts.estimate.options import ComputeOptions, Estimator
from kfac_artifacts.estimate.planning.forecast import Effort, Plan, plan
from kfac_artifacts.format.manifest import ESTIMATORS
from kfac_artifacts.workers import Workers

__all__ = [
    "ESTIMATORS",
    "ComputeOptions",
    "DealtFactors",
    "Effort",
    "Estimator",
    "Plan",
    "Workers",
    "choose",
    "compute",
    "compute_with_curvlinops",
    "discard",
    "hold_together",
    "kept_in",
    "plan",
    "require_rows",
    "save_together",
]
