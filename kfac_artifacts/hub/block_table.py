"""What a card says of every block: its module, its spectrum and its size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.hub.markdown import code, table
from kfac_artifacts.hub.picture import PICTURE

if TYPE_CHECKING:
    from kfac_artifacts.operator import BlockPortrait
else:
    BlockPortrait = object  # whoever pulls reads cards without torch

SPECTRA = (
    f"![Eigenvalues of the factors; trace and size of the blocks]({PICTURE})\n\n"
    "Eigenvalues are shares of the largest one, of the first factors (orange) to the "
    "last ones (blue). The effective rank of a factor M is `(tr M)² / ‖M‖²`; bytes of "
    "a factor that blocks share count where it comes first."
)


def block_table(artifact: Artifact, portraits: Mapping[str, BlockPortrait]) -> str:
    """Describe the blocks of an artifact.

    Args:
        artifact: The artifact.
        portraits: What its blocks are like, by name.

    Returns:
        A table in Markdown.
    """
    shapes = artifact.parameters
    rows = [
        [
            code(name),
            block.kind,
            ", ".join(code(p) for p in block.parameters),
            ", ".join("×".join(map(str, shapes[p])) for p in block.parameters),
            f"{portraits[name].trace:.3g}",
            _ranks(block, portraits[name]),
            f"{portraits[name].nbytes:,}",
        ]
        for name, block in artifact.blocks.items()
    ]
    header = ["block", "kind", "parameters", "shapes", "trace", "effective rank"]
    return table([*header, "bytes"], rows)


def _ranks(block: Block, portrait: BlockPortrait) -> str:
    """The effective ranks of its factors, of how many rows, by role."""
    told = []
    for term in block.terms:
        for role, name in zip(block.roles, term, strict=True):
            factor = portrait.factors[name]
            rank = factor.effective_rank
            found = "zero" if rank is None else f"{rank:.3g}"
            told.append(f"{role} {found} of {factor.dim}")
    return ", ".join(told)
