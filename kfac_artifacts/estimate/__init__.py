"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.estimate.compute import choose, compute
from kfac_artifacts.estimate.engine import compute_with_curvlinops

__all__ = ["choose", "compute", "compute_with_curvlinops"]
