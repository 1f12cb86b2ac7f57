"""Artifacts drawn by hypothesis: any blocks, shapes, terms and shared factors."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    Layout,
    MergeError,
)
from kfac_artifacts.factors import Dense, Diagonal, Factor
from tests.artifacts import provenance, symmetric

NAMES = st.text(
    st.characters(
        codec="utf-8", categories=("L", "N", "P", "S"), max_codepoint=0x1FFFF
    ),
    min_size=1,
    max_size=12,
).filter(lambda text: not any("\ufff0" <= c <= "\uffff" for c in text))


@dataclass(frozen=True)
class Plan:
    """A block to be made; plain data, so that drawing one runs no checked code.

    The type checker picks at random what it looks at, which hypothesis does not like.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout | None
    bias: bool
    terms: int
    diagonal: tuple[bool, bool]

    def block(self) -> Block:
        """Make the block; the terms of a Kronecker block share their A."""
        if self.layout is None or len(self.shape) < 2:
            terms = tuple((f"{self.name}/G{i}",) for i in range(self.terms))
            return GramianBlock(f"{self.name}.weight", terms)
        pairs = tuple(
            (f"{self.name}/A", f"{self.name}/B{i}") for i in range(self.terms)
        )
        bias = f"{self.name}.bias" if self.bias else None
        return KroneckerBlock(f"{self.name}.weight", bias, self.layout, pairs)


PLANS = st.lists(
    st.builds(
        Plan,
        name=NAMES,
        shape=st.lists(st.integers(1, 4), max_size=4).map(tuple),
        layout=st.sampled_from([None, *Layout]),
        bias=st.booleans(),
        terms=st.integers(1, 2),
        diagonal=st.tuples(st.booleans(), st.booleans()),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda plan: plan.name,
)


def build(plans: list[Plan], error: float) -> Artifact:
    """Make an artifact of any blocks, structures, shapes, terms and shared factors."""
    shapes: dict[str, tuple[int, ...]] = {}
    blocks: dict[str, Block] = {}
    factors: dict[str, Factor] = {}
    for plan in plans:
        block = blocks[plan.name] = plan.block()
        shapes[block.parameters[0]] = plan.shape
        if isinstance(block, KroneckerBlock) and block.bias:
            shapes[block.bias] = (block.layout.dims(plan.shape)[0],)
        for i, (name, dim) in enumerate(block.sizes(shapes)):
            matrix = symmetric(dim, i)
            diagonal = Diagonal(matrix.diagonal().clone())
            factors[name] = diagonal if plan.diagonal[i % 2] else Dense(matrix)
    info = replace(
        provenance(shapes),
        merge_errors={plans[0].name: MergeError(error, 1.5)},
        uncovered={f"{plans[0].name}.rest": "a reason"},
    )
    return Artifact(info, blocks, HeldFactors(factors))
