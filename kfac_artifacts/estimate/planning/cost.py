"""What curvature costs in floating-point operations and in memory, from its shapes.

Operations are the floor: a symmetric rank-k update of a ``d x d`` matrix is
``k d (d + 1)``, half of a full product, and every distinct A is updated once.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kfac_artifacts.artifact import Block, LinearBlock, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.estimate.planning.trace import Trace
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import FactorInfo, factor_info
from kfac_artifacts.network import Network
from kfac_artifacts.symmetric import accumulation

ROW_NUMBER = 8
"""Bytes of a row's number, and of the count of a row."""
PROOF_EXAMPLES = 2
"""Examples on which coverage is proved."""


@dataclass(frozen=True)
class PlannedBlock:
    """One block of the artifact that would be made.

    Attributes:
        name: Its name in the artifact.
        block: Which parameters it covers, by which factors.
        shapes: Shape of every parameter that it covers.
        structures: Structure of every factor.
        shared: Factors that a block before this one has already.
        positions: Positions per example that are seen of it; None if not known.
    """

    name: str
    block: Block
    shapes: Mapping[str, tuple[int, ...]]
    structures: Mapping[str, NamedConfig]
    shared: frozenset[str]
    positions: int | None

    @property
    def size(self) -> int:
        """Number of parameters that it covers; of one expert, not those of all."""
        of_part = isinstance(self.block, LinearBlock) and self.block.part is not None
        return sum(math.prod(shape[of_part:]) for shape in self.shapes.values())

    @property
    def dims(self) -> dict[str, int]:
        """Number of rows of every factor; that of A counts the bias."""
        return dict(self.block.all_sizes(self.shapes, self.structures.__getitem__))

    def own(self, storage: str) -> dict[str, FactorInfo]:
        """Describe the factors that no block before it has, as they are stored."""
        codec = STORAGES[storage]
        return {
            name: factor_info(self.structures[name], dim, codec)
            for name, dim in self.dims.items()
            if name not in self.shared
        }

    def nbytes(self, storage: str) -> int:
        """Size on disk of its own factors, in bytes."""
        return sum(info.nbytes for info in self.own(storage).values())


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per example.

    Attributes:
        forward: One forward pass.
        backward: The backward passes, to activations only.
        inputs: Updates of every distinct A.
        outputs: Updates of every B and every Gramian.
    """

    forward: int
    backward: int
    inputs: int
    outputs: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.forward + self.backward + self.inputs + self.outputs


@dataclass(frozen=True)
class Memory:
    """Memory in bytes, at least: without scratch space and what the libraries take.

    Attributes:
        weights: The model, in what is computed in.
        sums: Running sums of all factors, in float32 or better; row counts in int64.
        activations: What one batch keeps for the backward pass, if there is one; None
            if not known.
        records: Inputs and cotangents that ``nearest`` keeps of all examples; None if
            not known.
        proof: What the proof of coverage keeps: the gradient of every parameter, once
            from autograd and per example of two from the layers, and their activations.
    """

    weights: int
    sums: int
    activations: int | None
    records: int | None
    proof: int

    @property
    def peak(self) -> int:
        """The weights, and the most of proving and passing."""
        records = self.records or 0
        passing = self.sums + (self.activations or 0) + records
        return self.weights + max(self.proof, passing)


def artifact_bytes(blocks: Sequence[PlannedBlock]) -> dict[str, int]:
    """Size of all tensors of the artifact in bytes, under every storage."""
    return {s: sum(block.nbytes(s) for block in blocks) for s in STORAGES}


def flops(
    blocks: Sequence[PlannedBlock], traced: Trace, *, passes: int, reduced: bool
) -> Flops:
    """Count operations per example.

    Args:
        blocks: All blocks, with their positions.
        traced: The passes.
        passes: Backward passes per batch.
        reduced: Whether positions are summed up before a factor is updated.

    Returns:
        The counts.
    """
    inputs = outputs = 0
    for planned in blocks:
        block, dims, own = planned.block, planned.dims, planned.own("float32")
        rows = 1 if reduced or not block.is_product else planned.positions or 0
        full = (n for n, info in own.items() if info.structure.name == Dense.name)
        inputs += sum(_rank_update(rows, dims[n]) for n in full if n in block.inputs)
        for name in block.outputs:
            count, dim = passes * rows, dims[name]
            dense = planned.structures[name].name == Dense.name
            outputs += _rank_update(count, dim) if dense else 2 * count * dim
    return Flops(traced.forward, passes * traced.backward, inputs, outputs)


def memory(
    network: Network,
    blocks: Sequence[PlannedBlock],
    traced: Trace | None,
    *,
    batch_size: int,
    recorded: int,
    passes: int,
) -> Memory:
    """Count memory.

    Args:
        network: For the number type and the sizes of its parameters.
        blocks: All blocks.
        traced: The passes, if they could be made.
        batch_size: Examples per pass.
        recorded: Of how many examples inputs and cotangents are kept.
        passes: Cotangents per example.

    Returns:
        The counts.
    """
    parameters, dtype = network.parameters(), network.dtype
    reached = parameters.keys() if traced is None else traced.reached
    gradients = sum(parameters[name].numel() for name in reached)
    by_layer = PROOF_EXAMPLES * sum(block.size for block in blocks)
    kept = 0 if traced is None else traced.activations
    of_one = (_record_bytes(block, dtype, passes) for block in blocks)
    record = sum(of_one) if recorded else 0
    return Memory(
        weights=sum(p.nbytes for p in parameters.values()),
        sums=sum(_sums_bytes(block, dtype) for block in blocks),
        activations=None if traced is None else batch_size * kept * bool(passes),
        records=None if traced is None else recorded * record,
        proof=(gradients + by_layer) * dtype.itemsize + PROOF_EXAMPLES * kept,
    )


def matrix_rate(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """Measure how fast square matrices are multiplied here.

    Args:
        dtype: Number type of the matrices.
        device: Where.
        size: Number of their rows.

    Returns:
        Floating-point operations per second, the best of three.
    """
    x = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _rank_update(rows: int, dim: int) -> int:
    return rows * dim * (dim + 1)


def _sums_bytes(planned: PlannedBlock, dtype: torch.dtype) -> int:
    """Memory of the running sums of its own factors."""
    size = accumulation(dtype).itemsize
    return sum(
        info.dim**2 * size
        if info.structure.name == Dense.name
        else info.dim * ROW_NUMBER
        for info in planned.own("float32").values()
    )


def _record_bytes(planned: PlannedBlock, dtype: torch.dtype, passes: int) -> int:
    """Memory of an example's inputs, if they are its own, and cotangents."""
    dims, own, size = planned.dims, planned.own("float32"), dtype.itemsize
    if not planned.block.is_product:
        return passes * sum(dims.values()) * size  # the gradient itself
    (a, *_), (b, *_) = planned.block.inputs, planned.block.outputs
    position = passes * dims[b] * size
    if a in own:
        columns = dims[a] - (a in planned.block.biased)
        dense = own[a].structure.name == Dense.name
        position += columns * size if dense else ROW_NUMBER
    return (planned.positions or 0) * position
