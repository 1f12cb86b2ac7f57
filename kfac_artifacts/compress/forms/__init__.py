"""Structures that a factor can be brought into, a file for each."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.compress.forms.base import Form, Keep
    from kfac_artifacts.compress.forms.blocks import Blocks
    from kfac_artifacts.compress.forms.diagonal import OnlyDiagonal
    from kfac_artifacts.compress.forms.leading import Leading
    from kfac_artifacts.compress.forms.prune import Prune

__all__ = ["Blocks", "Form", "Keep", "Leading", "OnlyDiagonal", "Prune"]

export_lazily(
    __name__,
    {
        "Blocks": "blocks",
        "Form": "base",
        "Keep": "base",
        "Leading": "leading",
        "OnlyDiagonal": "diagonal",
        "Prune": "prune",
    },
)
