"""The curvature of an artifact as a linear operator over the covered parameters."""

from kfac_artifacts.operator.block_diagonal import BlockDiagonalOperator
from kfac_artifacts.operator.curvature import CurvatureOperator
from kfac_artifacts.operator.solve import Solver

__all__ = ["BlockDiagonalOperator", "CurvatureOperator", "Solver"]
