"""Which coordinates of a factor go into one block."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from kfac_artifacts.errors import SettingsError


def even_sizes(dim: int, count: int, *, bias: bool) -> list[int]:
    """Split coordinates into blocks of nearly equal size.

    The constant of a bias is the last coordinate. It joins the last block, so that the
    others split as they would without it: 769 into 8 blocks as 768 does.

    Args:
        dim: Number of coordinates.
        count: Number of blocks; at most as many as there are coordinates.
        bias: Whether the last coordinate is that constant.

    Returns:
        Sizes of the blocks; larger ones come first, but for the bias.

    Raises:
        SettingsError: If there are no blocks.
    """
    if count < 1:
        raise SettingsError(f"the number of blocks must be at least 1, not {count}")
    own = dim - bias if dim > 1 else dim
    count = min(count, own)
    sizes = [own // count + (i < own % count) for i in range(count)]
    sizes[-1] += dim - own
    return sizes


def by_correlation(
    matrix: Float[Tensor, "d d"], sizes: Sequence[int]
) -> Int32[Tensor, " d"]:
    """Order coordinates so that correlated ones come into one block.

    Clusters are found by average linkage on ``1 - |correlation|`` (Sokal & Michener
    1958), and the order is that of the leaves of the tree.

    Args:
        matrix: A covariance.
        sizes: Sizes of the blocks that the order will be cut into.

    Returns:
        The coordinate at every position.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # noqa: PLC0415 - slow
    from scipy.spatial.distance import squareform  # noqa: PLC0415

    if len(sizes) < 2 or len(matrix) < 3:
        return torch.arange(len(matrix), dtype=torch.int32)
    scale = matrix.diagonal().clamp(min=0).sqrt()
    correlation = (matrix / torch.outer(scale, scale)).nan_to_num(0, 0, 0).abs()
    distance = (1 - correlation.clamp(max=1)).double().numpy()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    return torch.from_numpy(leaves_list(tree).astype(np.int32))
