"""What is made of what layers see: curvature by an estimator, and what it would cost.

``compute`` makes an artifact of a network and examples, ``compute_with_curvlinops``
lets curvlinops do the work, and ``plan`` says before what it would take.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.estimate.checkpointing import (
        discard as discard,
        hold_together as hold_together,
        kept_in as kept_in,
    )
    from kfac_artifacts.estimate.compute import compute as compute
    from kfac_artifacts.estimate.curvlinops_engine.engine import (
        compute_with_curvlinops as compute_with_curvlinops,
    )
    from kfac_artifacts.estimate.distributed.owned_factors import (
        OwnedFactors as OwnedFactors,
        save_together as save_together,
    )
    from kfac_artifacts.estimate.estimators.base import (
        Cost as Cost,
        Estimate as Estimate,
        Estimator as Estimator,
        choose_estimator as choose_estimator,
    )
    from kfac_artifacts.estimate.estimators.diagonal import (
        DiagonalGramian as DiagonalGramian,
    )
    from kfac_artifacts.estimate.estimators.ekfac import Ekfac as Ekfac
    from kfac_artifacts.estimate.estimators.inputs import Inputs as Inputs
    from kfac_artifacts.estimate.estimators.kfac import (
        Kfac as Kfac,
        KfacReduce as KfacReduce,
    )
    from kfac_artifacts.estimate.estimators.nearest import Nearest as Nearest
    from kfac_artifacts.estimate.options import ComputeOptions as ComputeOptions
    from kfac_artifacts.estimate.planning.cost import (
        PlannedBlock as PlannedBlock,
        matrix_rate as matrix_rate,
    )
    from kfac_artifacts.estimate.planning.forecast import (
        Effort as Effort,
        Plan as Plan,
        plan as plan,
    )
    from kfac_artifacts.estimate.planning.streamed import (
        StreamedPlan as StreamedPlan,
        plan_streamed as plan_streamed,
    )
    from kfac_artifacts.estimate.private.noise import GaussianNoise as GaussianNoise
    from kfac_artifacts.estimate.recompute import recompute as recompute
    from kfac_artifacts.estimate.streaming.network import (
        StreamedNetwork as StreamedNetwork,
    )

export_lazily(__name__)
