"""Small artifacts: of a layer, a norm and a table, of the least, or of every kind."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    BaseModel,
    Block,
    Cotangents,
    DataInfo,
    EigenBlock,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    Layout,
    NamedConfig,
    ParameterInfo,
    Provenance,
    Source,
)
from kfac_artifacts.factors import Dense, Diagonal, Factor, floats
from kfac_artifacts.hub.card import model_card
from kfac_artifacts.operator import portrait

ROWS = Layout.ROWS
SHAPES = {
    "linear.weight": (3, 4),
    "linear.bias": (3,),
    "norm.weight": (4,),
    "table.weight": (7, 4),
}
SHA = hashlib.sha256(b"").hexdigest()
TEXTS = DataInfo("texts", None, "train", SHA, 4, 8, NamedConfig("tokenize", {"n": 128}))


def symmetric(dim: int, seed: int) -> Tensor:
    """Draw quarters of small whole numbers: every number type holds them exactly."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 9, (dim, dim), generator=generator) / 4
    return values + values.mT


def dominant(dim: int, seed: int) -> Tensor:
    """Draw a definite matrix that every number type holds exactly, too.

    A power of two above the sum of each row is its diagonal.
    """
    size = float(2 ** math.ceil(math.log2(4 * dim)))
    return symmetric(dim, seed).fill_diagonal_(size)


def written_out(factor: Any) -> Any:
    """The matrix of what the reference reader gives: the vector of a diagonal one."""
    return np.diag(factor) if factor.ndim == 1 else factor


def psd(dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw a random positive semidefinite matrix of full rank."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, 2 * dim, generator=generator, dtype=dtype)
    found = x @ x.mT / dim
    return (found + found.mT) / 2  # a product need not be symmetric to the last bit


def covariance(dim: int, seed: int, samples: int | None = None) -> Tensor:
    """Draw a semidefinite float32 matrix whose eigenvalues fall off.

    With fewer samples than dimensions it has no full rank, with none it is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 2 * dim if samples is None else samples
    x = torch.randn(dim, count, generator=generator, dtype=torch.float64)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    x = mixing @ (x * 0.7 ** torch.arange(dim, dtype=torch.float64)[:, None])
    found = (x @ x.mT / max(count, 1)).float()
    return (found + found.mT) / 2


def provenance(
    shapes: Mapping[str, tuple[int, ...]],
    data: DataInfo = TEXTS,
    base: str = "tiny",
    revision: str | None = None,
    seed: int = 0,
) -> Provenance:
    """Describe an artifact of one task."""
    parameters = {name: ParameterInfo(shape, SHA) for name, shape in shapes.items()}
    return Provenance(
        base=BaseModel(base, revision, parameters),
        output_map=NamedConfig("sentence-embedding", {"pooling": "mean"}),
        estimator=NamedConfig("kfac"),
        tasks=1,
        size=data.size,
        sources=(Source(data, Cotangents("mc", 1, seed)),),
    )


def artifact(
    seed: int = 0, size: int = 10, dtype: torch.dtype = torch.float64
) -> Artifact:
    """Build the curvature of one task, its numbers drawn from a seed."""
    data = replace(
        TEXTS,
        id=f"data{seed}",
        fingerprint=f"{seed:064x}",
        examples=min(size, 5),
        size=size,
    )
    info = provenance(SHAPES, data, base="toy", seed=seed)
    blocks: dict[str, Block] = {
        "linear": KroneckerBlock(
            "linear.weight", "linear.bias", ROWS, (("linear.A", "linear.B"),)
        ),
        "norm.weight": GramianBlock("norm.weight", (("norm.weight.G",),)),
        "table": KroneckerBlock(
            "table.weight", None, Layout.COLUMNS, (("table.A", "table.B"),)
        ),
    }
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, Factor] = {
        "linear.A": Dense(psd(5, 10 * seed + 1, dtype)),
        "linear.B": Dense(psd(3, 10 * seed + 2, dtype)),
        "norm.weight.G": Dense(psd(4, 10 * seed + 3, dtype)),
        "table.A": Diagonal(torch.rand(7, generator=generator, dtype=dtype)),
        "table.B": Dense(psd(4, 10 * seed + 4, dtype)),
    }
    return Artifact(
        replace(info, uncovered={"x": "unused"}), blocks, HeldFactors(factors)
    )


def renamed(of: Artifact, name: str) -> Artifact:
    """Give the same curvature as if it came from other data."""
    (source,) = of.provenance.sources
    other = replace(source, data=replace(source.data, id=name))
    return replace(of, provenance=replace(of.provenance, sources=(other,)))


def with_factors(of: Artifact, factors: Mapping[str, Factor]) -> Artifact:
    """Give the same artifact with some factors in place of its own, all in memory."""
    return replace(of, factors=HeldFactors({**of.factors, **factors}))


def small(dims: tuple[int, int, int] = (3, 2, 4), seed: int = 0) -> Artifact:
    """One linear layer with a bias and one Gramian block."""
    d_in, d_out, entries = dims
    shapes = {"l.weight": (d_out, d_in), "l.bias": (d_out,), "norm": (entries,)}
    factors: dict[str, Factor] = {
        "l/A": Dense(dominant(d_in + 1, 3 * seed + 1)),
        "l/B": Dense(dominant(d_out, 3 * seed + 2)),
        "norm/G": Dense(dominant(entries, 3 * seed + 3)),
    }
    blocks: dict[str, Block] = {
        "l": KroneckerBlock("l.weight", "l.bias", ROWS, (("l/A", "l/B"),)),
        "norm": GramianBlock("norm", (("norm/G",),)),
    }
    return Artifact(provenance(shapes), blocks, HeldFactors(factors))


RICH_SHAPES = {
    "q.weight": (16, 24),
    "q.bias": (16,),
    "k.weight": (16, 24),
    "k.bias": (16,),
    "norm.weight": (20,),
    "token": (6,),
    "table.weight": (150, 12),
    "sum.weight": (4, 7),
    "experts.weight": (2, 4, 5),
    "experts.bias": (2, 4),
}
RICH_BLOCKS: dict[str, Block] = {
    "q": KroneckerBlock("q.weight", "q.bias", ROWS, (("A", "q.B"),)),
    "k": KroneckerBlock("k.weight", "k.bias", ROWS, (("A", "k.B"),)),
    "norm": GramianBlock("norm.weight", (("norm.G",),)),
    "token": GramianBlock("token", (("token.G0",), ("token.G1",))),
    "table": KroneckerBlock("table.weight", None, Layout.COLUMNS, (("tA", "tB"),)),
    "sum": KroneckerBlock("sum.weight", None, ROWS, (("sA", "sB"), ("sA1", "sB1"))),
    "expert0": KroneckerBlock(
        "experts.weight", "experts.bias", ROWS, (("e0A", "e0B"),), part=0
    ),
    "expert1": KroneckerBlock(
        "experts.weight", "experts.bias", ROWS, (("e1A", "e1B"),), part=1
    ),
}


def rich(seed: int = 0, tasks: int = 2) -> Artifact:
    """Every kind of block: shared factors, tables, terms, parts, Gramians."""
    sizes = {
        n: d for block in RICH_BLOCKS.values() for n, d in block.sizes(RICH_SHAPES)
    }
    factors: dict[str, Factor] = {
        name: Dense(covariance(dim, seed + i))
        for i, (name, dim) in enumerate(sizes.items())
    }
    generator = torch.Generator().manual_seed(seed)
    factors["tA"] = Diagonal(torch.rand(150, generator=generator))
    factors["sB1"] = Dense(symmetric(4, seed))  # a term may well be indefinite
    info = provenance(RICH_SHAPES)
    data = info.sources[0].data
    sources = tuple(
        replace(info.sources[0], data=replace(data, id=f"task{i}"))
        for i in range(tasks)
    )
    merged = replace(info, tasks=tasks, size=8 * tasks, sources=sources)
    return Artifact(merged, RICH_BLOCKS, HeldFactors(factors))


def plain(seed: int = 0, dims: tuple[int, int, int] = (24, 16, 12)) -> Artifact:
    """One linear map and one Gramian."""
    d_in, d_out, entries = dims
    shapes = {"l.weight": (d_out, d_in), "norm": (entries,)}
    blocks: dict[str, Block] = {
        "l": KroneckerBlock("l.weight", None, ROWS, (("l/A", "l/B"),)),
        "norm": GramianBlock("norm", (("norm/G",),)),
    }
    factors: dict[str, Factor] = {
        "l/A": Dense(covariance(d_in, seed)),
        "l/B": Dense(covariance(d_out, seed + 1)),
        "norm/G": Dense(covariance(entries, seed + 2)),
    }
    return Artifact(provenance(shapes), blocks, HeldFactors(factors))


def tau(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    shapes: Mapping[str, Sequence[int]] = SHAPES,
) -> dict[str, Tensor]:
    """Draw a task vector for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*shape, generator=generator, dtype=dtype)
        for name, shape in shapes.items()
    }


def dense_block(of: Artifact, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Form a block as it is stored, by ``torch.kron``."""
    if isinstance(of.blocks[name], EigenBlock):
        A, B, S = (of.factors[factor] for factor in of.blocks[name].factors)
        return dense_eigen(A, B, S)
    total: Tensor | None = None
    for term in of.blocks[name].terms:
        dense = [of.factors[factor].to_dense() for factor in term]
        dense = [matrix.to(dtype or matrix.dtype) for matrix in dense]
        matrix = dense[0] if len(dense) == 1 else torch.kron(dense[1], dense[0])
        total = matrix if total is None else total + matrix
    assert total is not None
    return total


def dense_eigen(A: Any, B: Any, S: Any) -> Tensor:
    """Form ``B ⊗ A`` with other eigenvalues along the vectors: the definition."""
    basis = torch.kron(floats(B.vectors), floats(A.vectors))
    change = S.diagonal() - torch.outer(B.values, A.values).flatten()
    whole = torch.kron(B.to_dense(), A.to_dense())
    return whole + (basis.mT * change) @ basis


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


def card_of(
    of: Artifact, size: int = 1, place: str = "place", license: str | None = None
) -> str:
    """Write the model card of an artifact."""
    return model_card(of, portrait(of), size, place, license)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
