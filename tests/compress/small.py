"""Small artifacts on disk, and what is lost of them by brute force."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, KroneckerBlock
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.compress.originals import Original
from kfac_artifacts.factors import Dense, Factor
from kfac_artifacts.format import load_artifact
from tests.artifacts import RICH_SHAPES, dense_block, tau


def original(matrix: Tensor, *, bias: bool = False, definite: bool = True) -> Original:
    """Make what is compressed of a dense matrix."""
    return Original(Dense(matrix), bias, definite)


def on_disk(artifact: Artifact, path: Path) -> Artifact:
    """Write an artifact as it is and open it."""
    save_artifact(artifact, path)
    return load_artifact(path, verify=False)


def size(directory: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in directory.iterdir())


def block_matrix(artifact: Artifact, name: str) -> Tensor:
    """Form a block by ``torch.kron``, as a mean over the tasks, in float64."""
    matrix = dense_block(artifact, name, torch.float64)
    kronecker = isinstance(artifact.blocks[name], KroneckerBlock)
    return matrix / artifact.provenance.tasks if kronecker else matrix


def total_error(before: Artifact, after: Artifact) -> float:
    """Relative Frobenius error of all blocks together."""
    pairs = [(block_matrix(before, n), block_matrix(after, n)) for n in before.blocks]
    lost = sum(float((b - a).square().sum()) for b, a in pairs)
    return math.sqrt(lost / sum(float(b.square().sum()) for b, _ in pairs))


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


change = partial(tau, dtype=torch.float32, shapes=RICH_SHAPES)
"""Draw a task vector for what is rich."""
