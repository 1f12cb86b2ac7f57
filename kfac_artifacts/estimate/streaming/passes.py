"""Passes over the sample through one part, which keep what other parts need."""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.capture import BatchListener, Layer, LayerCall, Loaded, Run
from kfac_artifacts.estimate.streaming.part import Part
from kfac_artifacts.estimate.streaming.states import States
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.network import Network


@dataclass(frozen=True)
class PartRun(Run):
    """A run through one part, its network.

    Attributes:
        outputs: Where the hidden states behind the part are kept, if they are.
        gradients: Where the gradients of those before it are kept, if they are.
    """

    outputs: States | None = None
    gradients: States | None = None

    @property
    def part(self) -> Part:
        """The part."""
        return _part(self.network)

    @override
    def passes(
        self,
        listener: BatchListener,
        layers: Sequence[Layer],
        stage: str,
        start: int = 0,
        *,
        forward_only: bool = False,
    ) -> Generator[Loaded, None, None]:
        passes = super().passes(
            listener, layers, stage, start, forward_only=forward_only
        )
        for loaded in passes:
            self._keep_output(loaded)
            yield loaded
        for states in (self.outputs, self.gradients):
            if states is not None and not states.finished:
                states.finish()

    @override
    def keep_gradients(self, loaded: Loaded, gradients: Sequence[Tensor]) -> None:
        if self.gradients is None or self.gradients.finished:
            return
        for g in gradients[0]:
            self.gradients.put(loaded.ordinals[0], g)

    def go_forward(self) -> None:
        """Keep the hidden states behind the part, as later passes will find them."""
        several = self.sample.cotangents.draws != 1
        with self.progress("going forward", len(self.sample.ordinals)) as advance:
            for loaded in self.sample.batches():
                with forward_mode_kernels() if several else nullcontext():
                    self._forward(_Deaf(), self.coverage.layers, loaded).close()
                self._keep_output(loaded)
                advance(len(loaded.ordinals))
        if self.outputs is not None:
            self.outputs.finish()

    def _keep_output(self, loaded: Loaded) -> None:
        if self.outputs is not None and not self.outputs.finished:
            self.outputs.put(loaded.ordinals[0], self.part.hidden)


def _part(network: Network) -> Part:
    assert isinstance(network, Part)  # noqa: S101 - narrows
    return network


@final
class _Deaf:
    """Listens to nothing."""

    keeps_inputs = False
    out_of_examples = False

    def on_input(self, call: LayerCall) -> None:
        """Ignore it."""

    def on_cotangent(self, call: LayerCall, g: Tensor) -> None:
        """Ignore it."""

    def end_of_forward(self) -> None:
        """Nothing to do."""

    def end_of_backward(self) -> None:
        """Nothing to do."""
