"""Compressing artifacts: what to keep of every factor, and how to store it.

A *form* chooses the structure, a storage the number type; a *recipe* is both, and a
*budget* chooses a recipe for every factor. Whatever is chosen stays semidefinite.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.compress.budget import Budget
    from kfac_artifacts.compress.compress_artifact import compress
    from kfac_artifacts.compress.recipes import DEFAULT_RECIPE, PRESETS, Recipe
    from kfac_artifacts.compress.report import ModuleReport, Report, compression_report
    from kfac_artifacts.compress.saving import save_artifact

__all__ = [
    "DEFAULT_RECIPE",
    "PRESETS",
    "Budget",
    "ModuleReport",
    "Recipe",
    "Report",
    "compress",
    "compression_report",
    "save_artifact",
]

export_lazily(
    __name__,
    {
        "DEFAULT_RECIPE": "recipes",
        "PRESETS": "recipes",
        "Budget": "budget",
        "ModuleReport": "report",
        "Recipe": "recipes",
        "Report": "report",
        "compression_report": "report",
        "compress": "compress_artifact",
        "save_artifact": "saving",
    },
)
