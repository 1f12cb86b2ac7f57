"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.estimate.compute import compute
from kfac_artifacts.estimate.engine import compute_with_curvlinops
from kfac_artifacts.estimate.options import ESTIMATORS, Estimator, Job
from kfac_artifacts.estimate.plan import Effort, Plan, plan
from kfac_artifacts.estimate.sample import choose

__all__ = [
    "ESTIMATORS",
    "Effort",
    "Estimator",
    "Job",
    "Plan",
    "choose",
    "compute",
    "compute_with_curvlinops",
    "plan",
]
