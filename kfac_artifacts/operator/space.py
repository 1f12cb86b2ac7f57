"""The space of the covered parameters: as names, as one vector, as matrices ``W``."""

from collections.abc import Mapping
from functools import partial
from itertools import accumulate
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import MismatchError


class ParameterSpace:
    """Every covered parameter in a fixed order: by block, the weight before the bias.

    A vector of the space has the parameters one after the other, each with its rows
    flattened, so every block is one slice of it.

    Args:
        artifact: Whose parameters.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.blocks = dict(artifact.blocks)
        shapes = artifact.parameters
        names = [p for block in self.blocks.values() for p in block.parameters]
        self.shapes = {name: tuple(shapes[name]) for name in names}
        sizes = [
            sum(prod(self.shapes[p]) for p in block.parameters)
            for block in self.blocks.values()
        ]
        ends = list(accumulate(sizes, initial=0))
        self.size = ends[-1]
        self.slices = {
            name: slice(*ends[k : k + 2]) for k, name in enumerate(self.blocks)
        }

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

    def gather(self, name: str, x: Float[Tensor, "n k"]) -> Float[Tensor, "o i k"]:
        """Arrange a block's slice of ``k`` vectors as matrices ``W``."""
        block = self.blocks[name]
        sizes = [prod(self.shapes[p]) for p in block.parameters]
        parts = zip(block.parameters, x.split(sizes), strict=True)
        named = {p: part.reshape(*self.shapes[p], x.shape[1]) for p, part in parts}
        return vmap(block.gather, in_dims=-1, out_dims=-1)(named)

    def scatter(self, name: str, W: Float[Tensor, "o i k"]) -> Float[Tensor, "n k"]:
        """Undo ``gather``: as it only rearranges, its adjoint is its inverse."""
        size = W.shape[0] * W.shape[1]
        like = W.new_zeros(()).expand(size, W.shape[2])
        adjoint = vjp(partial(self.gather, name), like)[1]
        return adjoint(W)[0]
