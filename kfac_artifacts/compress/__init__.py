"""Compressing artifacts: what to keep of every factor, and how to store it.

A *form* chooses the structure, a storage the number type; a *recipe* is both, and a
*budget* chooses a recipe for every factor. Whatever is chosen stays semidefinite.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.compress.budget import Budget as Budget
    from kfac_artifacts.compress.compress_artifact import compress as compress
    from kfac_artifacts.compress.measures import (
        MEASURES as MEASURES,
        Spread as Spread,
        spreads as spreads,
    )
    from kfac_artifacts.compress.recipes import (
        DEFAULT_RECIPE as DEFAULT_RECIPE,
        PRESETS as PRESETS,
        Recipe as Recipe,
    )
    from kfac_artifacts.compress.report import (
        ModuleReport as ModuleReport,
        Report as Report,
        compression_report as compression_report,
    )
    from kfac_artifacts.compress.saving import save_artifact as save_artifact
    from kfac_artifacts.compress.uses import (
        USES as USES,
        Use as Use,
        judge_uses as judge_uses,
    )

export_lazily(__name__)
