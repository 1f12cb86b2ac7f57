"""The kinds of block that there are, by the name that the manifest gives them."""

from kfac_artifacts.artifact.blocks.base import Block
from kfac_artifacts.artifact.blocks.diagonal import DiagonalBlock
from kfac_artifacts.artifact.blocks.eigen import EigenBlock
from kfac_artifacts.artifact.blocks.gramian import GramianBlock
from kfac_artifacts.artifact.blocks.inputs import InputsBlock
from kfac_artifacts.artifact.blocks.kronecker import KroneckerBlock

BLOCKS: dict[str, type[Block]] = {
    "kronecker": KroneckerBlock,
    "eigen": EigenBlock,
    "inputs": InputsBlock,
    "diagonal": DiagonalBlock,
    "gramian": GramianBlock,
}
