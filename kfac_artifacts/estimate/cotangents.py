"""Cotangents: the vectors that are pulled back, seeded by the example they belong to.

``mc`` draws s ~ N(0, I_C), so that E[s sᵀ] = I and one backward pass per draw gives an
unbiased Gramian (Martens & Grosse 2015). ``exact`` takes the C unit vectors (Botev et
al. 2017). Seeds depend on the example's number alone, so neither the batch size nor the
order nor the number of processes changes a factor.
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.errors import KfacError

NAMES = ("mc", "exact")


def check(cotangents: Cotangents) -> None:
    """Refuse cotangents that do not exist.

    Args:
        cotangents: What was asked for.

    Raises:
        KfacError: If the name is unknown, or the number of draws is impossible.
    """
    if cotangents.name not in NAMES:
        raise KfacError(
            f"there are no cotangents {cotangents.name!r}; choose from {NAMES}"
        )
    if cotangents.name == "exact" and cotangents.draws is not None:
        raise KfacError("exact cotangents are not drawn: leave the number of draws out")
    if cotangents.name == "mc" and (cotangents.draws is None or cotangents.draws < 1):
        raise KfacError("the number of draws must be at least 1")


def count(cotangents: Cotangents, width: int) -> int:
    """Number of backward passes per batch."""
    return width if cotangents.draws is None else cotangents.draws


def divisor(cotangents: Cotangents) -> int:
    """What the sum over the passes is divided by: the draws; 1 for unit vectors."""
    return 1 if cotangents.draws is None else cotangents.draws


def vectors(
    cotangents: Cotangents, indices: Sequence[int], f: Float[Tensor, "n c"]
) -> Iterator[Float[Tensor, "n c"]]:
    """Give the cotangents of a batch, one ``[N, C]`` tensor per backward pass.

    Args:
        cotangents: Which kind, how many draws, and the seed.
        indices: Numbers of the examples.
        f: The output map's value, for its width, number type and device.

    Yields:
        One cotangent for every example.
    """
    width = f.shape[1]
    for k in range(count(cotangents, width)):
        if cotangents.name == "exact":
            unit = torch.zeros_like(f)
            unit[:, k] = 1
            yield unit
        else:
            rows = [gaussian(cotangents.seed, i, k, width) for i in indices]
            yield torch.stack(rows).to(f)


def gaussian(seed: int, index: int, draw: int, width: int) -> Float[Tensor, " c"]:
    """Draw s ~ N(0, I) for one example and one draw."""
    digest = hashlib.sha256(f"{seed}:{index}:{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(width, generator=generator)
