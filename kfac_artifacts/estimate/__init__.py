"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.estimate.compute import compute
from kfac_artifacts.estimate.options import Estimator, Job
from kfac_artifacts.estimate.sample import choose

__all__ = ["Estimator", "Job", "choose", "compute"]
