"""What an artifact says: blocks of curvature, their factors and their provenance.

Conventions (one block per module, n examples, f the output map, J its Jacobian):

- the Gramian of a dataset is ``G = (1/n) Σ_x J(x)ᵀ J(x)`` (TAK, Eq. 3);
- a Kronecker block approximates it by ``Σ_r B_r ⊗ A_r`` acting on ``vec W`` (rows
  flattened), where ``W`` is ``d_out x d_in`` and the bias is its last column;
- a Gramian block holds it in full for one small parameter;
- an artifact of T merged tasks holds ``A = Σ n_t A_t / Σ n_t`` and ``B = Σ B_t``
  (TAK, Eq. 8), so a Kronecker block is T times the weighted mean: ``Block.scale``.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.artifact.artifact import Artifact as Artifact
    from kfac_artifacts.artifact.blocks.base import Block as Block, Shapes as Shapes
    from kfac_artifacts.artifact.blocks.diagonal import DiagonalBlock as DiagonalBlock
    from kfac_artifacts.artifact.blocks.eigen import EigenBlock as EigenBlock
    from kfac_artifacts.artifact.blocks.gramian import GramianBlock as GramianBlock
    from kfac_artifacts.artifact.blocks.inputs import InputsBlock as InputsBlock
    from kfac_artifacts.artifact.blocks.kinds import BLOCKS as BLOCKS
    from kfac_artifacts.artifact.blocks.kronecker import (
        KroneckerBlock as KroneckerBlock,
    )
    from kfac_artifacts.artifact.blocks.linear import (
        Layout as Layout,
        LinearBlock as LinearBlock,
    )
    from kfac_artifacts.artifact.compatibility import (
        preprocessing_differences as preprocessing_differences,
        require_base as require_base,
        require_curvature_of as require_curvature_of,
        require_shared_base as require_shared_base,
        shared_differences as shared_differences,
    )
    from kfac_artifacts.artifact.disclosure import (
        ENOUGH_EXAMPLES as ENOUGH_EXAMPLES,
        Disclosure as Disclosure,
        disclosure as disclosure,
    )
    from kfac_artifacts.artifact.factors import (
        Factors as Factors,
        HeldFactors as HeldFactors,
    )
    from kfac_artifacts.artifact.provenance import (
        BaseModel as BaseModel,
        Cotangents as Cotangents,
        DataInfo as DataInfo,
        DerivedFile as DerivedFile,
        Json as Json,
        Loss as Loss,
        MergeError as MergeError,
        NamedConfig as NamedConfig,
        ParameterInfo as ParameterInfo,
        Privacy as Privacy,
        Provenance as Provenance,
        Source as Source,
    )
    from kfac_artifacts.artifact.tasks import task_names as task_names

export_lazily(__name__)
