"""The stages of an estimation, each of which can be gone on with after a kill."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kfac_artifacts.artifact import Block, Json
from kfac_artifacts.capture import Coverage, Run
from kfac_artifacts.estimate.accumulator import Accumulator
from kfac_artifacts.estimate.checkpointing import REFINING, SUMS, Saver
from kfac_artifacts.estimate.estimators.base import Estimate, Estimator
from kfac_artifacts.estimate.settling import settle
from kfac_artifacts.factors import FACTORS, Factor
from kfac_artifacts.format import State


def estimate(run: Run, estimator: Estimator, saver: Saver) -> Estimate:
    """Estimate all blocks: sums over the examples, then what refines them.

    Args:
        run: The passes.
        estimator: How the Gramian is approximated.
        saver: Keeps what is done, and knows what was.

    Returns:
        Blocks, and the factors that live on this process.
    """
    accumulator = estimator.accumulator(run)
    state = saver.load()
    if state is not None and state.details["stage"] == REFINING:
        found = _restored(run, estimator, state)
    else:
        _sum_up(run, accumulator, saver, state)
        positions = accumulator.positions
        factors = accumulator.factors(run.sample.weight)
        found = Estimate(_summed_blocks(run, estimator, positions), factors)
        found.privacy = accumulator.privacy
        found.records.append(accumulator.records())
    for _ in estimator.refine(run, found):
        step, details = len(found.finished), _details(found)
        saver.offer(step, lambda: _tensors(found), details, every=1)
    settle(found)
    return found


def _summed_blocks(
    run: Run, estimator: Estimator, positions: Mapping[str, int | None]
) -> dict[str, Block]:
    """Describe the block of every parameter, or pair of them, with its positions."""
    leaders = run.coverage.leaders
    return {
        name: block.with_positions(positions[block.inputs[0]] if block.inputs else None)
        for layer in run.coverage.layers
        for name, block in estimator.summed_blocks(
            layer, leaders.get(layer, layer)
        ).items()
    }


def _sum_up(
    run: Run, accumulator: Accumulator, saver: Saver, state: State | None
) -> None:
    sums, done = accumulator.sums, 0
    if state is not None:
        done = state.step
        sums.restore(state.tensors, _counts(state.details["positions"]))
        accumulator.forget_records()
    with run.workers.stage():
        passes = run.passes(
            accumulator,
            run.coverage.layers,
            SUMS,
            done,
            forward_only=accumulator.forward_only,
        )
        for loaded in passes:
            accumulator.end_of_batch(loaded)
            details: dict[str, Json] = {"stage": SUMS, "positions": {**sums.positions}}
            saver.offer(loaded.done, lambda: sums.tensors, details)
    sums.join()


def _counts(value: Any) -> dict[str, int]:
    return {name: int(count) for name, count in value.items()}


def _tensors(found: Estimate) -> dict[str, Tensor]:
    tensors, saved = {}, set[int]()  # files hold no memory twice
    for kind, factors in (("start", found.start), ("factors", found.factors)):
        for name, factor in factors.items():
            again = id(factor) in saved
            for field, tensor in factor.tensors().items():
                key = f"{kind}/{name}/{field}"
                tensors[key] = tensor.clone() if again else tensor
            saved.add(id(factor))
    return tensors


def _details(found: Estimate) -> dict[str, Json]:
    finished: dict[str, Json] = {
        name: list(found.blocks[name].factors) for name in found.finished
    }
    structures: dict[str, Json] = {
        f"{kind}/{name}": factor.name
        for kind, factors in (("start", found.start), ("factors", found.factors))
        for name, factor in factors.items()
    }
    about: dict[str, Json] = {
        "finished": finished,
        "structures": structures,
        "positions": {n: block.positions for n, block in found.blocks.items()},
    }
    return {"stage": REFINING, "sweeps": found.sweeps, **about}


def blocks_of(
    coverage: Coverage, estimator: Estimator, details: Mapping[str, Any]
) -> dict[str, Block]:
    """Describe the blocks of an estimation that was kept.

    Args:
        coverage: Its layers.
        estimator: How Gramians are approximated.
        details: The ``finished`` blocks with their factors, and ``positions`` of all.

    Returns:
        The blocks by name, in the order of the layers.
    """
    blocks: dict[str, Block] = {}
    for layer in coverage.layers:
        leader = coverage.leaders.get(layer, layer)
        finished = details["finished"]
        for name, block in estimator.summed_blocks(layer, leader).items():
            refined = block
            if name in finished:
                refined = estimator.blocks(layer, leader)[name]
                refined = refined.with_factors(finished[name])
            blocks[name] = refined.with_positions(details["positions"][name])
    return blocks


def _restored(run: Run, estimator: Estimator, state: State) -> Estimate:
    details: Mapping[str, Any] = state.details
    blocks = blocks_of(run.coverage, estimator, details)
    fields: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.tensors.items():
        place, field = key.rsplit("/", 1)
        kind, name = place.split("/", 1)
        fields[kind, name][field] = tensor.to(run.network.device)
    kinds: dict[str, dict[str, Factor]] = {"start": {}, "factors": {}}
    for (kind, name), tensors in fields.items():
        structure = FACTORS[details["structures"][f"{kind}/{name}"]]
        kinds[kind][name] = structure.from_fields(tensors, {})
    return Estimate(
        blocks,
        kinds["start"],
        kinds["factors"],
        list(details["finished"]),
        sweeps=details["sweeps"],
    )
