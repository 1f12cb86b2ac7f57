"""Streaming: every part of a network by itself, in memory one after the other.

Hidden states of the whole sample stay between the parts, in memory or on disk. Forward
only, a part is done as soon as it is passed. Otherwise all parts are passed first, and
then gone through from the last one to the first: each is run forward again from the
states before it, and the gradients that come out in front are the cotangents of the
part before.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.capture import (
    Coverage,
    Layer,
    Sample,
    bounded,
    pair_to_prove,
    requiring_gradients,
)
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.asked import Asked
from kfac_artifacts.estimate.checkpointing import Saver
from kfac_artifacts.estimate.description import describe
from kfac_artifacts.estimate.estimators.base import Estimate, Estimator
from kfac_artifacts.estimate.options import ALONE
from kfac_artifacts.estimate.stages import blocks_of, estimate
from kfac_artifacts.estimate.streaming.chain import ALTOGETHER, find_chain
from kfac_artifacts.estimate.streaming.network import StreamedNetwork
from kfac_artifacts.estimate.streaming.part import Part, PartSample, parts_of
from kfac_artifacts.estimate.streaming.passes import PartRun
from kfac_artifacts.estimate.streaming.results import Results
from kfac_artifacts.estimate.streaming.states import States
from kfac_artifacts.estimate.streaming.trial import Trial, assign_layers
from kfac_artifacts.progress import Advance, Progress
from kfac_artifacts.symmetric import tensor_cores
from kfac_artifacts.workers import Workers


@dataclass(frozen=True)
class Streaming:
    """An estimation part by part.

    Attributes:
        parts: The parts.
        coverages: What was proved of each.
        sample: The examples.
        estimator: How Gramians are approximated.
        results: What is done.
        progress: Shows how far it is.
    """

    parts: Sequence[Part]
    coverages: Sequence[Coverage]
    sample: Sample
    estimator: Estimator
    results: Results
    progress: Progress

    @cached_property
    def covered(self) -> list[int]:
        """Numbers of the parts that have layers."""
        return [n for n, coverage in enumerate(self.coverages) if coverage.layers]

    def estimate(self) -> None:
        """Estimate all parts that are not done."""
        if self.estimator.cost.forward_only:
            self._in_one_pass()
        else:
            self._go_forward()
            self._go_back()

    def _in_one_pass(self) -> None:
        for number in range(self.covered[-1] + 1):
            if self.results.has(number):
                continue
            outputs = None if number == self.covered[-1] else self._inputs(number + 1)
            self._estimate(self._run(number, outputs=outputs))
            self._inputs(number).remove()

    def _go_forward(self) -> None:
        end = len(self.parts) - 1
        if self.results.has(end):
            return
        begun = [n for n in range(1, end + 1) if self._inputs(n).finished]
        for number in range(max(begun, default=0), end):
            outputs = self._inputs(number + 1)
            run = self._run(number, outputs=outputs)
            with run.part.holding(), requiring_gradients(run.part, wanted=False):
                run.go_forward()
            if number < self.covered[0]:
                self._inputs(number).remove()

    def _go_back(self) -> None:
        for number in reversed(range(self.covered[0], len(self.parts))):
            if self.results.has(number):
                continue
            before = number > self.covered[0]
            gradients = self._gradients(number) if before else None
            self._estimate(self._run(number, gradients=gradients))
            self._inputs(number).remove()
            self._gradients(number + 1).remove()

    def _estimate(self, run: PartRun) -> None:
        part = run.part
        with part.holding(), requiring_gradients(part, wanted=False):
            found = estimate(run, self.estimator, Saver(ALONE, run.workers, {}))
        self.results.save(part.number, found)

    def _run(
        self,
        number: int,
        outputs: States | None = None,
        gradients: States | None = None,
    ) -> PartRun:
        part, whole = self.parts[number], self.sample
        back = not self.estimator.cost.forward_only
        sample = PartSample(
            whole.examples,
            whole.indices,
            whole.cotangents,
            whole.batch_size,
            whole.part,
            whole.classes,
            entries=None if part.is_first else self._inputs(number),
            pulled=self._gradients(number + 1) if back and not part.is_last else None,
            differentiated=back and number > self.covered[0],
        )

        def progress(stage: str, total: int) -> AbstractContextManager[Advance]:
            return self.progress(f"{part.title}, {stage}", total)

        return PartRun(
            part,
            self.coverages[number],
            sample,
            Workers(device=part.device),
            progress,
            outputs,
            gradients,
        )

    def _inputs(self, number: int) -> States:
        """The hidden states before a part."""
        return self.results.states(f"inputs-{number:04}")

    def _gradients(self, number: int) -> States:
        """Their gradients."""
        return self.results.states(f"gradients-{number:04}")

    def blocks(self, layers: Sequence[Layer]) -> dict[str, Block]:
        """Describe the blocks of all parts.

        Args:
            layers: The layers of all parts, in the order of the blocks.

        Returns:
            The blocks by name.
        """
        known = [self.results.details(number) for number in self.covered]
        leaders = {k: v for c in self.coverages for k, v in c.leaders.items()}
        details = {
            kind: {name: about for each in known for name, about in each[kind].items()}
            for kind in ("finished", "positions")
        }
        return blocks_of(Coverage(list(layers), {}, leaders), self.estimator, details)

    @property
    def sweeps(self) -> int:
        """The most sweeps that the refinement of a block took."""
        return max(self.results.details(number)["sweeps"] for number in self.covered)


def compute_streamed(network: StreamedNetwork, asked: Asked) -> Artifact:
    """Compute the curvature of a network part by part; see ``compute``.

    Args:
        network: The network.
        asked: What is asked for.

    Returns:
        The artifact; with a checkpoint its factors lie there, and are read when they
        are asked for.

    Raises:
        SettingsError: If the network, or what is asked for, cannot be streamed.
    """
    _check(network, asked)
    examples, indices, estimator = asked.examples, asked.indices, asked.estimator
    inventory = asked.take_inventory(network.module)
    pair = pair_to_prove(examples, indices)
    chain = find_chain(network, examples.batch(pair))
    parts = parts_of(network, chain)
    layers = assign_layers(inventory, chain, network.id)
    proving = asked.progress("proving", 2 * len(parts))
    with network.evaluating(), tensor_cores(), proving as advance:
        trial = Trial(parts, examples, pair)
        trial.go_forward(advance)
        coverages = trial.prove(inventory, layers, advance)
    sample = Sample(
        examples,
        indices,
        asked.pulled,
        bounded(asked.batch_size, network.output_map, trial.batch),
        classes=network.output_map.classes,
    )
    source = asked.source
    base = network.base_of({n for each in coverages for n in each.parameters})
    workers = Workers(device=network.device)
    settings = asked.settings(base, network, source, workers)
    settings = {**settings, "streamed": sample.batch_size}
    saver = Saver(asked.options, workers, settings)
    with saver.held(), network.evaluating(), tensor_cores():
        saver.load()
        results = Results(asked.options.directory, settings)
        streaming = Streaming(
            parts, coverages, sample, estimator, results, asked.progress
        )
        streaming.estimate()
    blocks = streaming.blocks(inventory.layers)
    found = Estimate(blocks, {}, sweeps=streaming.sweeps)
    provenance = describe(
        network,
        inventory,
        base=base,
        estimator=estimator.described(found),
        source=source,
        size=len(examples),
    )
    return Artifact(provenance, blocks, results.factors())


def _check(network: StreamedNetwork, asked: Asked) -> None:
    """Refuse what needs the whole network at once.

    Raises:
        SettingsError: If that is asked for.
    """
    if asked.estimator.hides:
        raise SettingsError(
            "noise needs what all layers together contribute of an example, so it "
            f"does not go with streaming; {ALTOGETHER}"
        )
    if asked.options.shard or Workers.gather(network.device).size > 1:
        raise SettingsError(
            "streaming is done by one process; start one alone, without --shard"
        )
    if network.precision is not None:
        raise SettingsError(
            f"a network of mixed precision cannot be streamed; {ALTOGETHER}"
        )
