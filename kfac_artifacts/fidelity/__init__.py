"""How well an artifact predicts drift on data that it has not seen."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.fidelity.agreement import (
        Agreement as Agreement,
        agreement as agreement,
    )
    from kfac_artifacts.fidelity.measure import fidelity as fidelity
    from kfac_artifacts.fidelity.plot import plot_fidelity as plot_fidelity
    from kfac_artifacts.fidelity.results import (
        Comparison as Comparison,
        Directions as Directions,
        Drift as Drift,
        Fidelity as Fidelity,
        HeldOut as HeldOut,
        ModuleFidelity as ModuleFidelity,
    )
    from kfac_artifacts.fidelity.verdict import verdict as verdict

export_lazily(__name__)
