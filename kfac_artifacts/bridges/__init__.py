"""Bridges to other people's files: what they computed becomes an artifact, or is read.

``choices.IMPORTS`` and ``choices.EXPORTS`` are the formats. An import undoes the
conventions of a format and takes shapes and hashes from a model that the user names; an
export gives what a format asks for, and refuses what the artifact does not hold.
``spec/bridges.md`` has the conventions side by side.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.bridges.assembling import About as About
    from kfac_artifacts.bridges.base import (
        Import as Import,
        choose_bridge as choose_bridge,
    )
    from kfac_artifacts.bridges.exporting import (
        Export as Export,
        export_artifact as export_artifact,
    )
    from kfac_artifacts.bridges.matching import Naming as Naming
    from kfac_artifacts.bridges.operators import (
        artifact_of_operator as artifact_of_operator,
    )

export_lazily(__name__)
