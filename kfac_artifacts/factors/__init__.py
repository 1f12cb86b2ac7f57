"""Symmetric factor matrices, one module per structure."""

from kfac_artifacts.factors.base import Factor, eigenvalue_ratio
from kfac_artifacts.factors.block_diagonal import BlockDiagonal
from kfac_artifacts.factors.check import (
    MAX_ASYMMETRY,
    STORED_ASYMMETRY,
    check_factor,
    largest,
    relative_asymmetry,
)
from kfac_artifacts.factors.dense import Dense
from kfac_artifacts.factors.diagonal import Diagonal
from kfac_artifacts.factors.fields import Configuration, Field, Role
from kfac_artifacts.factors.inner import inner
from kfac_artifacts.factors.int8 import Int8Entries, Int8Matrix, Leaf, floats
from kfac_artifacts.factors.low_rank import LowRank
from kfac_artifacts.factors.pruned import Pruned

FACTORS: dict[str, type[Factor]] = {
    "dense": Dense,
    "block_diagonal": BlockDiagonal,
    "low_rank": LowRank,
    "pruned": Pruned,
    "diagonal": Diagonal,
}

__all__ = [
    "FACTORS",
    "MAX_ASYMMETRY",
    "STORED_ASYMMETRY",
    "BlockDiagonal",
    "Configuration",
    "Dense",
    "Diagonal",
    "Factor",
    "Field",
    "Int8Entries",
    "Int8Matrix",
    "Leaf",
    "LowRank",
    "Pruned",
    "Role",
    "check_factor",
    "eigenvalue_ratio",
    "floats",
    "inner",
    "largest",
    "relative_asymmetry",
]
