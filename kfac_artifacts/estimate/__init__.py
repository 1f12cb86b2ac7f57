"""What is made of what layers see: curvature by an estimator, and what it would cost.

``compute`` makes an artifact of a network and examples, ``compute_with_curvlinops``
lets curvlinops do the work, and ``plan`` says before what it would take.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.estimate.checkpointing import discard, hold_together, kept_in
    from kfac_artifacts.estimate.compute import compute
    from kfac_artifacts.estimate.curvlinops_engine.engine import compute_with_curvlinops
    from kfac_artifacts.estimate.distributed.owned_factors import (
        OwnedFactors,
        save_together,
    )
    from kfac_artifacts.estimate.estimators.base import (
        Cost,
        Estimate,
        Estimator,
        choose_estimator,
    )
    from kfac_artifacts.estimate.estimators.kfac import Kfac, KfacReduce
    from kfac_artifacts.estimate.estimators.nearest import Nearest
    from kfac_artifacts.estimate.options import ComputeOptions
    from kfac_artifacts.estimate.planning.cost import PlannedBlock, matrix_rate
    from kfac_artifacts.estimate.planning.forecast import Effort, Plan, plan

__all__ = [
    "ComputeOptions",
    "Cost",
    "Effort",
    "Estimate",
    "Estimator",
    "Kfac",
    "KfacReduce",
    "Nearest",
    "OwnedFactors",
    "Plan",
    "PlannedBlock",
    "choose_estimator",
    "compute",
    "compute_with_curvlinops",
    "discard",
    "hold_together",
    "kept_in",
    "matrix_rate",
    "plan",
    "save_together",
]

export_lazily(
    __name__,
    {
        "ComputeOptions": "options",
        "Cost": "estimators.base",
        "Effort": "planning.forecast",
        "Estimate": "estimators.base",
        "Estimator": "estimators.base",
        "Kfac": "estimators.kfac",
        "KfacReduce": "estimators.kfac",
        "Nearest": "estimators.nearest",
        "OwnedFactors": "distributed.owned_factors",
        "Plan": "planning.forecast",
        "PlannedBlock": "planning.cost",
        "choose_estimator": "estimators.base",
        "compute": "compute",
        "compute_with_curvlinops": "curvlinops_engine.engine",
        "discard": "checkpointing",
        "hold_together": "checkpointing",
        "kept_in": "checkpointing",
        "matrix_rate": "planning.cost",
        "plan": "planning.forecast",
        "save_together": "distributed.owned_factors",
    },
)
