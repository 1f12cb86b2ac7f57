"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.chosen import choose
from kfac_artifacts.estimate.compute import compute
from kfac_artifacts.estimate.curvlinops_engine.engine import compute_with_curvlinops
from kfac_artifacts.estimate.options import Estimator, Job
from kfac_artifacts.estimate.planning.plan import Effort, Plan, plan
from kfac_artifacts.estimate.processes.dealt import DealtFactors, save_together
from kfac_artifacts.estimate.processes.workers import Workers
from kfac_artifacts.estimate.sample import require_rows
from kfac_artifacts.estimate.saver import discard, hold_together, kept_in
from kfac_artifacts.format.manifest import ESTIMATORS

__all__ = [
    "ESTIMATORS",
    "DealtFactors",
    "Effort",
    "Estimator",
    "Job",
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
