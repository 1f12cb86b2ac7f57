"""Every block by itself: its error, and the drift along each direction's part in it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.capture import Layer, Record, RecordBatch, Run, next_group
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.fidelity.directions import Direction, arrange
from kfac_artifacts.fidelity.frobenius import Moments, Operator, moments
from kfac_artifacts.fidelity.results import Drift
from kfac_artifacts.operator import block_operator


@dataclass(eq=False)
class MeasuredBlock:
    """What was measured of one block.

    Attributes:
        kind: Kind of the block.
        moments: What its error follows from.
        drifts: Its drift along directions, by their number.
    """

    kind: str
    moments: Moments
    drifts: dict[int, Drift] = field(default_factory=dict)

    def by_kind(self, along: Sequence[Direction]) -> dict[str, list[Drift]]:
        """The drifts by kind of direction."""
        found: dict[str, list[Drift]] = defaultdict(list)
        for number, drift in self.drifts.items():
            found[along[number].kind].append(drift)
        return dict(found)


def measure_blocks(
    run: Run, artifact: Artifact, along: Sequence[Direction], memory: int
) -> dict[str, MeasuredBlock]:
    """Measure every block, as many at a time as fit into memory.

    Args:
        run: The passes over the held-out examples; its layers are the artifact's.
        artifact: The artifact.
        along: Directions.
        memory: Bytes of records to keep.

    Returns:
        The blocks, in the artifact's order.

    Raises:
        SettingsError: If the records of one module alone do not fit.
    """
    todo = list(run.coverage.layers)
    found: dict[str, MeasuredBlock] = {}
    while todo:
        stage = f"recording {len(todo)} modules"
        group, batches = next_group(run, todo, memory, stage)
        if not group:
            raise SettingsError(
                f"{todo[0].name} alone does not fit: its activations on "
                f"{len(run.sample)} examples take more than the {memory:,} bytes that "
                "may be kept; allow more (--memory), or use fewer examples"
            )
        found |= _Group(run, artifact, group, batches).measure(along)
        todo = [layer for layer in todo if layer not in group]
    return {name: found[name] for name in artifact.blocks}


class _Group:
    """Some modules, with their records and the artifact's operators.

    Args:
        run: The passes.
        artifact: The artifact.
        layers: The modules.
        batches: Their records.
    """

    def __init__(
        self,
        run: Run,
        artifact: Artifact,
        layers: Sequence[Layer],
        batches: list[RecordBatch],
    ) -> None:
        self._run, self._artifact = run, artifact
        theirs = {block.covers: n for n, block in artifact.blocks.items()}
        self._records: dict[str, list[Record]] = {}
        for layer in layers:
            for name, block in layer.blocks(layer).items():
                records = [records[name] for _, records in batches]
                self._records[theirs[block.covers]] = records
        self._operators = {name: self._operator(name) for name in self._records}

    def measure(self, along: Sequence[Direction]) -> dict[str, MeasuredBlock]:
        """Measure every block of the group."""
        blocks = self._artifact.blocks
        found = {}
        count = len(self._run.sample) * (len(self._records) + len(along))
        stage = f"measuring {len(self._records)} modules"
        with self._run.progress(stage, count) as advance:
            for name, records in self._records.items():
                parts = moments(records, self._operators[name])
                found[name] = MeasuredBlock(blocks[name].kind, parts)
                advance(len(self._run.sample))
            for number, direction in enumerate(along):
                for name, drift in self._drifts(direction).items():
                    found[name].drifts[number] = drift
                advance(len(self._run.sample))
        return found

    def _drifts(self, direction: Direction) -> dict[str, Drift]:
        """The drift along a direction's part in every block where it has one."""
        blocks = {name: self._artifact.blocks[name] for name in self._records}
        names = dict.fromkeys(p for block in blocks.values() for p in block.parameters)
        parts = direction.parts(list(names))
        drifts = {}
        for name, block in blocks.items():
            W = arrange(block, parts, self._run.network)
            if W is not None:
                W = W.to(self._records[name][0].g.dtype)
                drifts[name] = self._drift(name, direction, W)
        return drifts

    def _drift(self, name: str, direction: Direction, W: Tensor) -> Drift:
        KW = self._operators[name].product(W[..., None])[..., 0]
        inner = torch.cat([record.inner(W) for record in self._records[name]])
        squares = inner.double().square().mean(1)
        predicted = float((W * KW).sum(dtype=torch.float64))
        return observed(direction.name, predicted, squares)

    def _operator(self, name: str) -> Operator:
        block = self._artifact.blocks[name]
        like = self._records[name][0].g
        factors = {
            factor: self._artifact.factors[factor].to(like.device, like.dtype)
            for factor in block.factors
        }
        tasks = self._artifact.provenance.tasks
        shapes = self._artifact.parameters
        return block_operator(name, block, factors, shapes, block.scale(tasks))


def observed(name: str, predicted: float, squares: Float[Tensor, " n"]) -> Drift:
    """Put a predicted drift beside the true one of n examples.

    Args:
        name: Name of the direction.
        predicted: The prediction.
        squares: ``‖J(x) τ‖²`` of every example, or an unbiased estimate.

    Returns:
        Both, with the standard error of the mean.
    """
    error = float(squares.std()) / len(squares) ** 0.5
    return Drift(name, predicted, float(squares.mean()), error)
