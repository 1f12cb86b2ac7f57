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
    from kfac_artifacts.factors.base import (
        Factor as Factor,
        eigenvalue_ratio as eigenvalue_ratio,
        weighted as weighted,
    )
    from kfac_artifacts.factors.block_diagonal import BlockDiagonal as BlockDiagonal
    from kfac_artifacts.factors.check import (
        MAX_ASYMMETRY as MAX_ASYMMETRY,
        STORED_ASYMMETRY as STORED_ASYMMETRY,
        check_factor as check_factor,
        largest as largest,
        relative_asymmetry as relative_asymmetry,
    )
    from kfac_artifacts.factors.definite import (
        CLEARLY as CLEARLY,
        MOST_ROWS as MOST_ROWS,
        dear_rows as dear_rows,
        lowest as lowest,
        rounding as rounding,
    )
    from kfac_artifacts.factors.dense import Dense as Dense
    from kfac_artifacts.factors.diagonal import (
        Diagonal as Diagonal,
        identity as identity,
    )
    from kfac_artifacts.factors.eigen import eigh as eigh
    from kfac_artifacts.factors.eigen_product import (
        EigenProduct as EigenProduct,
        eigen_product as eigen_product,
    )
    from kfac_artifacts.factors.fields import (
        Configuration as Configuration,
        Field as Field,
        Role as Role,
        scales_of as scales_of,
    )
    from kfac_artifacts.factors.int8 import (
        Int8Entries as Int8Entries,
        Int8Matrix as Int8Matrix,
        Numbers as Numbers,
        floats as floats,
    )
    from kfac_artifacts.factors.leading import (
        Leading as Leading,
        without_constant as without_constant,
    )
    from kfac_artifacts.factors.low_rank import LowRank as LowRank
    from kfac_artifacts.factors.pruned import Pruned as Pruned
    from kfac_artifacts.factors.shapes import SHAPES as SHAPES
    from kfac_artifacts.factors.structures import FACTORS as FACTORS

export_lazily(__name__)
