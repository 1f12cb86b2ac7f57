"""Compressing artifacts: what to keep of every factor, and how to store it.

A *form* chooses the structure, a storage the number type; a *recipe* is both, and a
*budget* chooses a recipe for every factor. Whatever is chosen stays semidefinite.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.compress.budget import Budget
    from kfac_artifacts.compress.compress_artifact import compress, save_compressed
    from kfac_artifacts.compress.recipes import PRESETS, Recipe
    from kfac_artifacts.compress.report import ModuleReport, Report, compression_report

__all__ = [
    "PRESETS",
    "Budget",
    "ModuleReport",
    "Recipe",
    "Report",
    "compress",
    "compression_report",
    "save_compressed",
]

export_lazily(
    __name__,
    {
        "PRESETS": "recipes",
        "Budget": "budget",
        "ModuleReport": "report",
        "Recipe": "recipes",
        "Report": "report",
        "compression_report": "report",
        "compress": "compress_artifact",
        "save_compressed": "compress_artifact",
    },
)
