"""The curvature of an artifact as a linear operator over the covered parameters."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.operator.block_diagonal import (
        BlockDiagonalOperator as BlockDiagonalOperator,
    )
    from kfac_artifacts.operator.block_operators import (
        BlockOperator as BlockOperator,
        KroneckerSum as KroneckerSum,
        SpectralBlock as SpectralBlock,
    )
    from kfac_artifacts.operator.curvature import (
        CurvatureOperator as CurvatureOperator,
        block_operator as block_operator,
    )
    from kfac_artifacts.operator.eigen_operator import EigenOperator as EigenOperator
    from kfac_artifacts.operator.portrait import (
        BlockPortrait as BlockPortrait,
        FactorPortrait as FactorPortrait,
        leading_eigenvalues as leading_eigenvalues,
        portrait as portrait,
    )
    from kfac_artifacts.operator.solve import Solver as Solver
    from kfac_artifacts.operator.spectrum import Decomposed as Decomposed

export_lazily(__name__)
