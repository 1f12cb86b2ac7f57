"""Which fields a structure has, from its size and configuration alone.

Nothing here needs a tensor, so that a manifest can be checked without importing torch.
"""

from collections.abc import Callable, Iterator

from kfac_artifacts.errors import FactorError
from kfac_artifacts.factors.fields import (
    MAX_DIM,
    Configuration,
    Field,
    Role,
    check_keys,
    true_or_false,
    whole_number,
)


def _dense(dim: int, configuration: Configuration) -> dict[str, Field]:
    check_keys(configuration)
    return {"matrix": Field((dim, dim), Role.MATRIX)}


def _diagonal(dim: int, configuration: Configuration) -> dict[str, Field]:
    check_keys(configuration)
    return {"values": Field((dim,), Role.ENTRIES)}


def _low_rank(dim: int, configuration: Configuration) -> dict[str, Field]:
    check_keys(configuration, "rank", "diagonal")
    rank = whole_number(configuration["rank"], "rank", 1, dim)
    found = {
        "vectors": Field((rank, dim), Role.ENTRIES),
        "values": Field((rank,), Role.WEIGHTS),
    }
    if true_or_false(configuration["diagonal"], "diagonal"):
        found["diagonal"] = Field((dim,), Role.WEIGHTS)
    return found


def _pruned(dim: int, configuration: Configuration) -> dict[str, Field]:
    check_keys(configuration, "kept")
    entries = dim * (dim - 1) // 2
    kept = whole_number(configuration["kept"], "kept", 0, entries)
    return {
        "mask": Field((-(-entries // 8),), Role.BITS),
        "values": Field((kept,), Role.ENTRIES),
        "diagonal": Field((dim,), Role.WEIGHTS),
    }


def _block_diagonal(dim: int, configuration: Configuration) -> dict[str, Field]:
    check_keys(configuration, "blocks", "permuted")
    found = {
        f"blocks_{i}": Field((count, size, size), Role.MATRIX)
        for i, (count, size) in enumerate(_runs(configuration["blocks"], dim))
    }
    if true_or_false(configuration["permuted"], "permuted"):
        found["permutation"] = Field((dim,), Role.INDICES)
    return found


def _runs(value: object, dim: int) -> Iterator[tuple[int, int]]:
    """Check the runs, before anything is made of their sizes."""
    if not isinstance(value, list) or not value:
        raise FactorError("blocks must be an array of [count, size], not empty")
    total, last = 0, 0
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise FactorError("blocks must be an array of [count, size]")
        count = whole_number(pair[0], "a count of blocks", 1, MAX_DIM)
        size = whole_number(pair[1], "a size of blocks", 1, MAX_DIM)
        if size == last:
            raise FactorError(f"two runs of blocks of size {size} follow each other")
        total, last = total + count * size, size
        yield count, size
    if total != dim:
        raise FactorError(f"the blocks have {total} coordinates, not {dim}")


SHAPES: dict[str, Callable[[int, Configuration], dict[str, Field]]] = {
    "dense": _dense,
    "block_diagonal": _block_diagonal,
    "low_rank": _low_rank,
    "pruned": _pruned,
    "diagonal": _diagonal,
}
"""By the name of the structure: shape and role of every field of a factor."""
