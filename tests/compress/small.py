"""Small artifacts to compress, and what they are by brute force."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    GramianBlock,
    KroneckerBlock,
    Layout,
    terms_of,
)
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.format import load_artifact
from tests.format.artifacts import provenance, symmetric

SHAPES = {
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
ROWS = Layout.ROWS
BLOCKS: dict[str, Block] = {
    "q": KroneckerBlock("q.weight", "q.bias", ROWS, (("A", "q.B"),)),
    "k": KroneckerBlock("k.weight", "k.bias", ROWS, (("A", "k.B"),)),
    "norm": GramianBlock("norm.weight", ("norm.G",)),
    "token": GramianBlock("token", ("token.G0", "token.G1")),
    "table": KroneckerBlock("table.weight", None, Layout.COLUMNS, (("tA", "tB"),)),
    "sum": KroneckerBlock("sum.weight", None, ROWS, (("sA", "sB"), ("sA1", "sB1"))),
    "expert0": KroneckerBlock(
        "experts.weight", "experts.bias", ROWS, (("e0A", "e0B"),), part=0
    ),
    "expert1": KroneckerBlock(
        "experts.weight", "experts.bias", ROWS, (("e1A", "e1B"),), part=1
    ),
}


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


def original(matrix: Tensor, *, bias: bool = False, definite: bool = True) -> Original:
    """Make what is compressed of a dense matrix."""
    return Original(Dense(matrix), bias, definite)


def rich(seed: int = 0, tasks: int = 2) -> Artifact:
    """Every kind of block: shared factors, tables, terms, parts, Gramians."""
    sizes = {n: d for block in BLOCKS.values() for n, d in block.sizes(SHAPES)}
    factors: dict[str, Factor] = {
        name: Dense(covariance(dim, seed + i))
        for i, (name, dim) in enumerate(sizes.items())
    }
    generator = torch.Generator().manual_seed(seed)
    factors["tA"] = Diagonal(torch.rand(150, generator=generator))
    factors["sB1"] = Dense(symmetric(4, seed))  # a term may well be indefinite
    info = provenance(SHAPES)
    data = info.sources[0].data
    sources = tuple(
        replace(info.sources[0], data=replace(data, id=f"task{i}"))
        for i in range(tasks)
    )
    merged = replace(info, tasks=tasks, size=8 * tasks, sources=sources)
    return Artifact(merged, BLOCKS, factors)


def plain(seed: int = 0, dims: tuple[int, int, int] = (24, 16, 12)) -> Artifact:
    """One linear map and one Gramian."""
    d_in, d_out, entries = dims
    shapes = {"l.weight": (d_out, d_in), "norm": (entries,)}
    blocks: dict[str, Block] = {
        "l": KroneckerBlock("l.weight", None, Layout.ROWS, (("l/A", "l/B"),)),
        "norm": GramianBlock("norm", ("norm/G",)),
    }
    factors: dict[str, Factor] = {
        "l/A": Dense(covariance(d_in, seed)),
        "l/B": Dense(covariance(d_out, seed + 1)),
        "norm/G": Dense(covariance(entries, seed + 2)),
    }
    return Artifact(provenance(shapes), blocks, factors)


def on_disk(artifact: Artifact, path: Path) -> Artifact:
    """Write an artifact as it is and open it."""
    save_artifact(artifact, path)
    return load_artifact(path, verify=False)


def size(directory: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in directory.iterdir())


def block_matrix(artifact: Artifact, name: str) -> Tensor:
    """Form a block by ``torch.kron``, as a mean over the tasks, in float64."""
    block = artifact.blocks[name]
    total: Tensor | None = None
    for term in terms_of(block):
        dense = [artifact.factors[factor].to_dense().double() for factor in term]
        matrix = dense[0] if len(dense) == 1 else torch.kron(dense[1], dense[0])
        total = matrix if total is None else total + matrix
    assert total is not None
    kronecker = isinstance(block, KroneckerBlock)
    return total / artifact.provenance.tasks if kronecker else total


def total_error(before: Artifact, after: Artifact) -> float:
    """Relative Frobenius error of all blocks together."""
    pairs = [(block_matrix(before, n), block_matrix(after, n)) for n in before.blocks]
    lost = sum(float((b - a).square().sum()) for b, a in pairs)
    return math.sqrt(lost / sum(float(b.square().sum()) for b, _ in pairs))


def change(
    shapes: Mapping[str, Sequence[int]] = SHAPES, seed: int = 0
) -> dict[str, Tensor]:
    """Draw a task vector."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(*s, generator=generator) for n, s in shapes.items()}


def same_tensors(one: Factor, other: Factor) -> bool:
    """Whether two factors have the same fields, to the last bit."""
    ours, theirs = one.tensors(), other.tensors()
    return (
        type(one) is type(other)
        and [type(leaf) for leaf in one.fields().values()]
        == [type(leaf) for leaf in other.fields().values()]
        and ours.keys() == theirs.keys()
        and all(
            t.dtype == theirs[n].dtype and torch.equal(t, theirs[n])
            for n, t in ours.items()
        )
    )
