"""f of a directory of ``sentence-transformers``: what its users see of a text."""

from kfac_artifacts.sources.sentence_transformers.building import NAME, build_chain
from kfac_artifacts.sources.sentence_transformers.declaration import Declaration
from kfac_artifacts.sources.sentence_transformers.modules import Chain
from kfac_artifacts.sources.sentence_transformers.pooling import (
    MODES,
    POOLED,
    real_positions,
)
from kfac_artifacts.sources.sentence_transformers.reading import (
    declaration_of,
    read_declaration,
    read_json,
)

__all__ = [
    "MODES",
    "NAME",
    "POOLED",
    "Chain",
    "Declaration",
    "build_chain",
    "declaration_of",
    "read_declaration",
    "read_json",
    "real_positions",
]
