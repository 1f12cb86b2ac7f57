"""Small artifacts for the tests of the format, drawn or made by hand."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    BaseModel,
    Block,
    Cotangents,
    DataInfo,
    GramianBlock,
    KroneckerBlock,
    Layout,
    MergeError,
    NamedConfig,
    ParameterInfo,
    Provenance,
    Source,
)
from kfac_artifacts.factors import Dense, Diagonal, Factor

SHA = hashlib.sha256(b"").hexdigest()


def symmetric(dim: int, seed: int) -> Tensor:
    """Draw quarters of small whole numbers: every number type holds them exactly."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 9, (dim, dim), generator=generator) / 4
    return values + values.mT


def provenance(shapes: dict[str, tuple[int, ...]]) -> Provenance:
    """Describe an artifact of one task."""
    parameters = {name: ParameterInfo(shape, SHA) for name, shape in shapes.items()}
    data = DataInfo(
        "texts", None, "train", SHA, 4, 8, NamedConfig("tokenize", {"n": 128})
    )
    return Provenance(
        base=BaseModel("tiny", None, parameters),
        output_map=NamedConfig("sentence-embedding", {"pooling": "mean"}),
        estimator=NamedConfig("kfac"),
        tasks=1,
        size=8,
        sources=(Source(data, Cotangents("mc", 1, 0)),),
    )


def small(dims: tuple[int, ...] = (3, 2, 4)) -> Artifact:
    """One linear layer with a bias and one Gramian block."""
    d_in, d_out, entries = dims
    shapes = {"l.weight": (d_out, d_in), "l.bias": (d_out,), "norm": (entries,)}
    factors: dict[str, Factor] = {
        "l/A": Dense(symmetric(d_in + 1, 1)),
        "l/B": Dense(symmetric(d_out, 2)),
        "norm/G": Dense(symmetric(entries, 3)),
    }
    blocks: dict[str, Block] = {
        "l": KroneckerBlock("l.weight", "l.bias", Layout.ROWS, (("l/A", "l/B"),)),
        "norm": GramianBlock("norm", ("norm/G",)),
    }
    return Artifact(provenance(shapes), blocks, factors)


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
            terms = tuple(f"{self.name}/G{i}" for i in range(self.terms))
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
    return Artifact(info, blocks, factors)


def same(one: Artifact, other: Artifact) -> bool:
    """Whether two artifacts say the same, to the last bit."""
    return (
        one.provenance == other.provenance
        and dict(one.blocks) == dict(other.blocks)
        and one.factors.keys() == other.factors.keys()
        and all(
            type(f) is type(other.factors[n])
            and torch.equal(f.to_dense(), other.factors[n].to_dense())
            for n, f in one.factors.items()
        )
    )


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
