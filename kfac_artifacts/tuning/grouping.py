"""Blocks of a model that are alike, taken together.

A model has many matrices of one shape. A step costs a few products then, and not
thousands of small ones, each of which takes longer to begin than to compute.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from kfac_artifacts.artifact import Block, LinearBlock, Shapes
from kfac_artifacts.errors import CoverageError, FactorError
from kfac_artifacts.factors import Diagonal, EigenProduct, Factor
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.tuning.forms import Entries, Group, LowRankChange, Product, Term
from kfac_artifacts.tuning.stacks import Stack, joined, likeness, stack

MOST_FORMED = 2**24
"""Most entries of changes that are formed at the same time."""

_Held: TypeAlias = dict[tuple[int, ...], Stack]
"""Stacks by the factors that they are of: q, k and v share the one of their inputs."""


@dataclass(frozen=True)
class _Single:
    """A block, of which many make a group."""

    name: str
    matrices: list[tuple[Factor, ...]]
    dims: tuple[int, int]
    padded: bool
    multiplier: float


def groups(
    penalty: KfacPenalty, shapes: Shapes, changes: Mapping[str, LowRankChange]
) -> Iterator[Group]:
    """Put blocks together that are alike in everything but their numbers.

    Args:
        penalty: The penalty of the blocks.
        shapes: Shapes of the parameters.
        changes: Changes of the blocks, where they will be.

    Yields:
        Groups that have every block once.

    Raises:
        CoverageError: If a block is of a kind that a change of low rank has no form in.
        FactorError: If a change has not the shape of its block.
    """
    placed: dict[tuple[str, torch.device], Factor] = {}  # each is moved once
    found: dict[Hashable, list[_Single]] = {}
    for name, change in changes.items():
        block, device = penalty.blocks[name], change.left.device
        for each in block.factors:
            if (each, device) not in placed:
                placed[each, device] = penalty.factors[each].to(device)
        factors = {each: placed[each, device] for each in block.factors}
        padded = _is_padded(name, block, change, shapes)
        one = _Single(
            name,
            _matrices(name, block, factors, shapes),
            block.matrix_shape(shapes),
            padded,
            penalty.multipliers[name],
        )
        found.setdefault(_likeness(one, change), []).append(one)
    held: _Held = {}
    for alike in found.values():
        size = _at_once(alike[0])
        for start in range(0, len(alike), size):
            yield _group(alike[start : start + size], held)


def _is_padded(name: str, block: Block, change: LowRankChange, shapes: Shapes) -> bool:
    """Whether the block has a column for a bias that the change has not."""
    wanted = block.matrix_shape(shapes)
    found = len(change.left), change.right.shape[1]
    biased = isinstance(block, LinearBlock) and block.bias is not None
    if found == wanted or (biased and found == (wanted[0], wanted[1] - 1)):
        return found != wanted
    raise FactorError(
        f"the change of {name} is a matrix {[*found]}, and its curvature is of "
        f"{[*wanted]}; are they of another model?"
    )


def _matrices(
    name: str, block: Block, factors: Mapping[str, Factor], shapes: Shapes
) -> list[tuple[Factor, ...]]:
    """Pairs ``(A, B)``, or single matrices over all entries of W."""
    found: list[tuple[Factor, ...]] = []
    for matrices in block.products(factors, shapes):
        whole = matrices[0]
        if isinstance(whole, EigenProduct):
            found += [(whole,), *((A, B) for B, A in whole.rest())]
        elif len(matrices) == 2 or isinstance(whole, Diagonal):
            found.append(matrices)
        else:
            raise CoverageError(
                f"{name} is a block of kind {block.kind}, which has no penalty of a "
                "change of low rank; train its parameters themselves, or leave it out "
                "of the targets"
            )
    return found


def _likeness(one: _Single, change: LowRankChange) -> Hashable:
    """What blocks share that are taken together; the last name keeps q, k, v apart."""
    structures = tuple(tuple(likeness(f) for f in own) for own in one.matrices)
    shapes = change.left.shape, change.right.shape, change.left.device
    return one.name.rpartition(".")[2], shapes, one.padded, structures


def _at_once(one: _Single) -> int:
    """How many such blocks may form their matrices at the same time."""
    formed = [own[0].dim for own in one.matrices if len(own) == 1]
    return max(1, MOST_FORMED // max(formed)) if formed else 2**62


def _group(alike: Sequence[_Single], held: _Held) -> Group:
    def stacked(factors: Sequence[Factor]) -> Stack:
        key = tuple(id(factor) for factor in factors)
        if key not in held:
            held[key] = stack(factors)
        return held[key]

    terms: list[Term] = []
    for place, first in enumerate(alike[0].matrices):
        own = [each.matrices[place] for each in alike]
        if len(first) == 2:
            A, B = (stacked([pair[side] for pair in own]) for side in range(2))
            terms.append(Product(A, B))
        else:
            terms.append(_entries([whole for (whole,) in own], alike[0].dims))
    return Group(
        [each.name for each in alike],
        terms,
        [each.multiplier for each in alike],
        padded=alike[0].padded,
    )


def _entries(wholes: Sequence[Factor], dims: tuple[int, int]) -> Entries:
    eigen = [whole for whole in wholes if isinstance(whole, EigenProduct)]
    if not eigen:
        return Entries(joined([whole.diagonal().view(dims) for whole in wholes]), None)
    U, V = (joined([whole.bases[side] for whole in eigen]) for side in range(2))
    return Entries(joined([whole.values for whole in eigen]), (U, V))
