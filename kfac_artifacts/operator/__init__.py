"""The curvature of an artifact as a linear operator over the covered parameters."""

from kfac_artifacts.operator.curvature import BlockDiagonalOperator, CurvatureOperator
from kfac_artifacts.operator.solve import Solver

__all__ = ["BlockDiagonalOperator", "CurvatureOperator", "Solver"]
