"""Model and data to factors: what is covered, cotangents, accumulation."""

from kfac_artifacts.estimate.compute import choose, compute

__all__ = ["choose", "compute"]
