"""The space of the covered parameters: as names, as one vector, as matrices ``W``."""

from collections.abc import Mapping
from itertools import accumulate
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.errors import MismatchError


class ParameterSpace:
    """Every covered parameter in a fixed order: by block, the weight before the bias.

    A vector of the space has the parameters one after the other, each once and with its
    rows flattened. A block is some ranges of it: its parameters, or a part of each.

    Args:
        artifact: Whose parameters.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.blocks = dict(artifact.blocks)
        shapes = artifact.parameters
        names = [p for block in self.blocks.values() for p in block.parameters]
        self.shapes = {name: tuple(shapes[name]) for name in names}
        ends = list(accumulate(map(prod, self.shapes.values()), initial=0))
        self.size = ends[-1]
        self._starts = dict(zip(self.shapes, ends, strict=False))

    def join(self, tau: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
        """Make one vector of named tensors; those of other names are left out.

        Args:
            tau: A tensor of the parameter's shape for every covered parameter.

        Returns:
            The vector.

        Raises:
            MismatchError: If one is missing, or has another shape.
        """
        for name, shape in self.shapes.items():
            if name not in tau:
                raise MismatchError(
                    f"there is no {name}, which the curvature covers; give zeros for "
                    "what is unchanged"
                )
            if tuple(tau[name].shape) != shape:
                raise MismatchError(
                    f"{name} has shape {list(tau[name].shape)}, but the curvature is "
                    f"of one of shape {list(shape)}"
                )
        return torch.cat([tau[name].reshape(-1) for name in self.shapes])

    def split(self, x: Float[Tensor, "d ..."]) -> dict[str, Tensor]:
        """Name the parts of a vector or of a matrix of columns, columns last."""
        sizes = [prod(shape) for shape in self.shapes.values()]
        return {
            name: part.reshape(*shape, *x.shape[1:])
            for (name, shape), part in zip(
                self.shapes.items(), x.split(sizes), strict=True
            )
        }

    def gather(self, name: str, x: Float[Tensor, "d k"]) -> Float[Tensor, "o i k"]:
        """Arrange a block's share of ``k`` vectors as matrices ``W``."""
        whole, shapes = self._whole(name)
        named = {
            p: x[place].reshape(*shape, x.shape[1])
            for p, shape, place in zip(
                whole.parameters, shapes, self._ranges(name), strict=True
            )
        }
        return vmap(whole.gather, in_dims=-1, out_dims=-1)(named)

    def scatter(
        self, name: str, W: Float[Tensor, "o i k"], into: Float[Tensor, "d k"]
    ) -> None:
        """Undo ``gather``: as it only rearranges, its adjoint is its inverse.

        Args:
            name: Of the block.
            W: Its matrices.
            into: Where its share of ``k`` vectors is written.
        """
        whole, shapes = self._whole(name)

        def arranged(*parts: Tensor) -> Tensor:
            named = dict(zip(whole.parameters, parts, strict=True))
            return vmap(whole.gather, in_dims=-1, out_dims=-1)(named)

        zero = W.new_zeros(())
        like = [zero.expand(*shape, W.shape[2]) for shape in shapes]
        found = vjp(arranged, *like)[1](W)
        for place, part in zip(self._ranges(name), found, strict=True):
            into[place] = part.reshape(-1, W.shape[2])

    def _whole(self, name: str) -> tuple[Block, list[tuple[int, ...]]]:
        """A block of a part of stacked parameters as one of that part alone."""
        block = self.blocks[name]
        first = 0 if block.part is None else 1
        shapes = [self.shapes[p][first:] for p in block.parameters]
        return block.unstacked(), shapes

    def _ranges(self, name: str) -> list[slice]:
        """Where the parameters of a block are in a vector, or its part of them."""
        block, shapes = self._whole(name)
        part = self.blocks[name].part or 0
        found = []
        for parameter, shape in zip(block.parameters, shapes, strict=True):
            start = self._starts[parameter] + part * prod(shape)
            found.append(slice(start, start + prod(shape)))
        return found
