"""Symmetric factor matrices, one module per structure.

Whatever the structure, a factor multiplies, tells its diagonal and its eigenvalues, and
says which fields it is stored as.

Example:
    >>> import torch
    >>> from kfac_artifacts.factors import Dense, LowRank
    >>> covariance = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
    >>> exact, small = Dense(covariance), LowRank.of_dense(covariance, rank=1)
    >>> exact.nbytes, small.nbytes
    (36, 28)
    >>> torch.equal(exact.matmul(torch.eye(3)), covariance)
    True
    >>> float(exact.inner(exact))  # the squared Frobenius norm
    31.0
    >>> list(small.fields())
    ['vectors', 'values', 'diagonal']
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.factors.base import Factor, eigenvalue_ratio, weighted
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
    from kfac_artifacts.factors.int8 import Int8Entries, Int8Matrix, Numbers, floats
    from kfac_artifacts.factors.low_rank import LowRank
    from kfac_artifacts.factors.pruned import Pruned
    from kfac_artifacts.factors.shapes import SHAPES
    from kfac_artifacts.factors.structures import FACTORS

__all__ = [
    "FACTORS",
    "MAX_ASYMMETRY",
    "SHAPES",
    "STORED_ASYMMETRY",
    "BlockDiagonal",
    "Configuration",
    "Dense",
    "Diagonal",
    "Factor",
    "Field",
    "Int8Entries",
    "Int8Matrix",
    "LowRank",
    "Numbers",
    "Pruned",
    "Role",
    "check_factor",
    "eigenvalue_ratio",
    "floats",
    "largest",
    "relative_asymmetry",
    "weighted",
]

export_lazily(
    __name__,
    {
        "FACTORS": "structures",
        "MAX_ASYMMETRY": "check",
        "SHAPES": "shapes",
        "STORED_ASYMMETRY": "check",
        "BlockDiagonal": "block_diagonal",
        "Configuration": "fields",
        "Dense": "dense",
        "Diagonal": "diagonal",
        "Factor": "base",
        "Field": "fields",
        "Int8Entries": "int8",
        "Int8Matrix": "int8",
        "Numbers": "int8",
        "LowRank": "low_rank",
        "Pruned": "pruned",
        "Role": "fields",
        "check_factor": "check",
        "eigenvalue_ratio": "base",
        "floats": "int8",
        "largest": "check",
        "relative_asymmetry": "check",
        "weighted": "base",
    },
)
