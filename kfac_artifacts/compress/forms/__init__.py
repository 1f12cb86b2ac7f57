"""Structures that a factor can be brought into, a file for each."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.compress.forms.base import Form as Form, Keep as Keep
    from kfac_artifacts.compress.forms.blocks import Blocks as Blocks
    from kfac_artifacts.compress.forms.diagonal import OnlyDiagonal as OnlyDiagonal
    from kfac_artifacts.compress.forms.leading import Leading as Leading
    from kfac_artifacts.compress.forms.prune import Prune as Prune

export_lazily(__name__)
