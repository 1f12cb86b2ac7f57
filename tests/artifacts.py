"""Small artifacts in memory: one Linear, one norm, one table."""

from dataclasses import replace

import torch

from kfac_artifacts.artifact import (
    Artifact,
    BaseModel,
    Cotangents,
    DataInfo,
    GramianBlock,
    KroneckerBlock,
    Layout,
    NamedConfig,
    ParameterInfo,
    Provenance,
    Source,
)
from kfac_artifacts.factors import Dense, Diagonal

SHAPES = {
    "linear.weight": (3, 4),
    "linear.bias": (3,),
    "norm.weight": (4,),
    "table.weight": (7, 4),
}


def psd(dim: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw a random positive semidefinite matrix of full rank."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, 2 * dim, generator=generator, dtype=dtype)
    found = x @ x.mT / dim
    return (found + found.mT) / 2  # a product need not be symmetric to the last bit


def artifact(
    seed: int = 0, size: int = 10, dtype: torch.dtype = torch.float64
) -> Artifact:
    """Build the curvature of one task, its numbers drawn from a seed."""
    base = BaseModel(
        "toy", None, {n: ParameterInfo(s, "ab" * 32) for n, s in SHAPES.items()}
    )
    data = DataInfo(
        id=f"data{seed}",
        config=None,
        split=None,
        fingerprint=f"{seed:064x}",
        examples=min(size, 5),
        size=size,
        preprocessing=NamedConfig("none"),
    )
    blocks = {
        "linear": KroneckerBlock(
            "linear.weight", "linear.bias", Layout.ROWS, (("linear.A", "linear.B"),)
        ),
        "norm.weight": GramianBlock("norm.weight", ("norm.weight.G",)),
        "table": KroneckerBlock(
            "table.weight", None, Layout.COLUMNS, (("table.A", "table.B"),)
        ),
    }
    generator = torch.Generator().manual_seed(seed)
    factors = {
        "linear.A": Dense(psd(5, 10 * seed + 1, dtype)),
        "linear.B": Dense(psd(3, 10 * seed + 2, dtype)),
        "norm.weight.G": Dense(psd(4, 10 * seed + 3, dtype)),
        "table.A": Diagonal(torch.rand(7, generator=generator, dtype=dtype)),
        "table.B": Dense(psd(4, 10 * seed + 4, dtype)),
    }
    source = Source(data, Cotangents("mc", 1, seed))
    provenance = Provenance(
        base,
        NamedConfig("mean-pool"),
        NamedConfig("kfac"),
        1,
        size,
        (source,),
        uncovered={"x": "unused"},
    )
    return Artifact(provenance, blocks, factors)


def renamed(of: Artifact, name: str) -> Artifact:
    """Give the same curvature as if it came from other data."""
    (source,) = of.provenance.sources
    other = replace(source, data=replace(source.data, id=name))
    return replace(of, provenance=replace(of.provenance, sources=(other,)))


def tau(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Draw a task vector for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype)
        for name, shape in SHAPES.items()
    }


def dense_block(of: Artifact, name: str) -> torch.Tensor:
    """Form a block as it is stored, by ``torch.kron``."""
    block = of.blocks[name]
    if isinstance(block, GramianBlock):
        return sum(of.factors[f].to_dense() for f in block.terms)
    return sum(
        torch.kron(of.factors[b].to_dense(), of.factors[a].to_dense())
        for a, b in block.terms
    )
