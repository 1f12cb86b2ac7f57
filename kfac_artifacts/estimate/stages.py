"""The stages of an estimation, each of which can be gone on with after a kill."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from kfac_artifacts.artifact import Json, KroneckerBlock
from kfac_artifacts.capture.run import Run
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.checkpointing import REFINING, SUMS, Saver
from kfac_artifacts.estimate.estimators.nearest import Refined, refine
from kfac_artifacts.estimate.options import Estimator
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.format.checkpoint import State


def estimate(run: Run, estimator: Estimator, saver: Saver) -> Refined:
    """Estimate all blocks: sums over the examples, then the nearest products if asked.

    Args:
        run: The passes.
        estimator: How the Gramian is approximated.
        saver: Keeps what is done, and knows what was.

    Returns:
        Blocks, and the factors that live on this process.
    """
    accumulator = Accumulator(
        run.coverage,
        run.network.shapes,
        run.network.template,
        run.workers,
        reduce=estimator.name == "kfac-reduce",
    )
    state = saver.load()
    if state is not None and state.details["stage"] == REFINING:
        found = _restored(accumulator, state, run.network.device)
    else:
        _sum_up(run, accumulator, saver, state)
        factors = accumulator.factors(run.sample.weight)
        found = Refined(accumulator.blocks(), factors)
    if estimator.name == "nearest":
        for _ in refine(run, estimator, found):
            step, details = len(found.finished), _details(found)
            saver.offer(step, lambda: _tensors(found), details, every=1)
    return found


def _sum_up(
    run: Run, accumulator: Accumulator, saver: Saver, state: State | None
) -> None:
    sums, done = accumulator.sums, 0
    if state is not None:
        done = state.step
        sums.restore(state.tensors, _counts(state.details["positions"]))
    with run.workers.stage():
        for loaded in run.passes(accumulator, run.coverage.layers, SUMS, done):
            details: dict[str, Json] = {"stage": SUMS, "positions": {**sums.positions}}
            saver.offer(loaded.done, lambda: sums.tensors, details)
    sums.join()


def _counts(value: Any) -> dict[str, int]:
    return {name: int(count) for name, count in value.items()}


def _tensors(found: Refined) -> dict[str, Tensor]:
    tensors = {}
    for kind, factors in (("start", found.start), ("factors", found.factors)):
        for name, factor in factors.items():
            (tensor,) = factor.tensors().values()
            tensors[f"{kind}/{name}"] = tensor
    return tensors


def _details(found: Refined) -> dict[str, Json]:
    blocks = {name: found.blocks[name] for name in found.finished}
    terms: dict[str, Json] = {
        name: [list(term) for term in block.terms]
        for name, block in blocks.items()
        if isinstance(block, KroneckerBlock)
    }
    return {"stage": REFINING, "terms": terms, "sweeps": found.sweeps}


def _restored(accumulator: Accumulator, state: State, device: Any) -> Refined:
    details: Mapping[str, Any] = state.details
    blocks = accumulator.blocks()
    for name, terms in details["terms"].items():
        block = blocks[name]
        assert isinstance(block, KroneckerBlock)  # noqa: S101 - narrows
        blocks[name] = replace(block, terms=tuple((a, b) for a, b in terms))
    kinds: dict[str, dict[str, Factor]] = {"start": {}, "factors": {}}
    for key, tensor in state.tensors.items():
        kind, name = key.split("/", 1)
        moved = tensor.to(device)
        kinds[kind][name] = Dense(moved) if moved.dim() == 2 else Diagonal(moved)
    finished = list(details["terms"])
    return Refined(
        blocks, kinds["start"], kinds["factors"], finished, details["sweeps"]
    )
