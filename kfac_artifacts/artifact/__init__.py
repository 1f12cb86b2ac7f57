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
    from kfac_artifacts.artifact.artifact import (
        Artifact,
        LazyFactors,
    )
    from kfac_artifacts.artifact.block_info import (
        BlockInfo,
        GramianInfo,
        KroneckerInfo,
        Layout,
    )
    from kfac_artifacts.artifact.blocks import (
        Block,
        GramianBlock,
        KroneckerBlock,
        block_of,
        terms_of,
    )
    from kfac_artifacts.artifact.compatibility import (
        preprocessing_differences,
        require_base,
        require_curvature_of,
        require_shared_base,
        shared_differences,
    )
    from kfac_artifacts.artifact.disclosure import (
        ENOUGH_EXAMPLES,
        Disclosure,
        disclosure,
    )
    from kfac_artifacts.artifact.provenance import (
        BaseModel,
        Cotangents,
        DataInfo,
        Json,
        Loss,
        MergeError,
        NamedConfig,
        ParameterInfo,
        Provenance,
        Source,
    )
    from kfac_artifacts.artifact.tasks import task_names

__all__ = [
    "ENOUGH_EXAMPLES",
    "Artifact",
    "BaseModel",
    "Block",
    "BlockInfo",
    "Cotangents",
    "DataInfo",
    "Disclosure",
    "GramianBlock",
    "GramianInfo",
    "Json",
    "KroneckerBlock",
    "KroneckerInfo",
    "Layout",
    "LazyFactors",
    "Loss",
    "MergeError",
    "NamedConfig",
    "ParameterInfo",
    "Provenance",
    "Source",
    "block_of",
    "disclosure",
    "preprocessing_differences",
    "require_base",
    "require_curvature_of",
    "require_shared_base",
    "shared_differences",
    "task_names",
    "terms_of",
]

export_lazily(
    __name__,
    {
        "ENOUGH_EXAMPLES": "disclosure",
        "Artifact": "artifact",
        "BaseModel": "provenance",
        "Block": "blocks",
        "BlockInfo": "block_info",
        "Cotangents": "provenance",
        "DataInfo": "provenance",
        "Disclosure": "disclosure",
        "GramianBlock": "blocks",
        "GramianInfo": "block_info",
        "Json": "provenance",
        "KroneckerBlock": "blocks",
        "KroneckerInfo": "block_info",
        "Layout": "block_info",
        "LazyFactors": "artifact",
        "Loss": "provenance",
        "MergeError": "provenance",
        "NamedConfig": "provenance",
        "ParameterInfo": "provenance",
        "Provenance": "provenance",
        "Source": "provenance",
        "block_of": "blocks",
        "disclosure": "disclosure",
        "preprocessing_differences": "compatibility",
        "require_base": "compatibility",
        "require_curvature_of": "compatibility",
        "require_shared_base": "compatibility",
        "shared_differences": "compatibility",
        "task_names": "tasks",
        "terms_of": "blocks",
    },
)
