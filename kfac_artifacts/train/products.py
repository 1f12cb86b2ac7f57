"""Task vectors that are products of low rank, formed where somebody asks for them."""

from collections.abc import Iterator, Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Block, Layout, LinearBlock
from kfac_artifacts.tuning import LowRankChange


@final
class Products(Mapping[str, Tensor]):
    """A task vector by parameter name; every item is formed anew, with its gradient.

    Args:
        products: ``s L R`` of every parameter, a matrix as it is in the network.
    """

    def __init__(self, products: Mapping[str, LowRankChange]) -> None:
        self.products = dict(products)

    @override
    def __getitem__(self, name: str) -> Tensor:
        left, right, scale = self.products[name]
        return scale * left @ right

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.products)

    @override
    def __len__(self) -> int:
        return len(self.products)

    def of_blocks(self, blocks: Mapping[str, Block]) -> dict[str, LowRankChange] | None:
        """The changes of the matrices of blocks, without forming one.

        Args:
            blocks: Blocks by name.

        Returns:
            Their changes; None if one of them is no linear map, or its weight does not
            move alone.
        """
        found = {}
        for name, block in blocks.items():
            moving = [p for p in block.parameters if p in self.products]
            if not isinstance(block, LinearBlock) or moving != [block.weight]:
                return None
            change = self.products[block.weight]
            if block.layout is Layout.COLUMNS:
                left, right, scale = change
                change = LowRankChange(right.mT, left.mT, scale)
            found[name] = change
        return found
