"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.estimate.compute import choose, compute
from kfac_artifacts.estimate.plan import ESTIMATORS, Effort, Plan, plan

__all__ = ["ESTIMATORS", "Effort", "Plan", "choose", "compute", "plan"]
