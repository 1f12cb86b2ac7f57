"""Sums of clipped contributions, and factors with noise."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Privacy
from kfac_artifacts.capture import (
    FactorSum,
    KroneckerLayer,
    Layer,
    LayerCall,
    Loaded,
    Run,
)
from kfac_artifacts.chosen import choose_examples
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.accumulator import Accumulator, factor_sums
from kfac_artifacts.estimate.private.contributions import Contributing
from kfac_artifacts.estimate.private.noise import (
    GaussianNoise,
    cleaned,
    deviation,
    with_noise,
)
from kfac_artifacts.estimate.sums import Sums
from kfac_artifacts.factors import Dense, Factor
from kfac_artifacts.network import Examples

PUBLIC = 128
"""Public examples, at most, of which the median norms are taken."""
STAGE = "finding clip norms"
COUNTED = "with noise no table is covered: its A is the number of every token"
ROUTED = "with noise no map is covered to which the data choose their positions"


def reason_against_noise(layer: Layer) -> str | None:
    """Say why the contributions of examples to a layer cannot be hidden."""
    if isinstance(layer, KroneckerLayer) and layer.has_diagonal_inputs:
        return COUNTED
    return ROUTED if layer.functional or layer.part is not None else None


@final
class PrivateAccumulator(Accumulator):
    """KFAC-expand of clipped contributions; noise is added once, at the end.

    Args:
        run: The passes.
        noise: The guarantee, and the clip norms.
        planned: The sums, if they are not those of A, B and Gramians.
        forward_only: Whether nothing is pulled back.
    """

    def __init__(
        self,
        run: Run,
        noise: GaussianNoise,
        planned: Mapping[str, FactorSum] | None = None,
        *,
        forward_only: bool = False,
    ) -> None:
        if run.workers.size > 1:
            raise SettingsError("noise is added by one process; compute with one")
        if planned is None:
            planned = factor_sums(run.coverage, run.network.shapes)
        super().__init__(run, planned, forward_only=forward_only)
        by_example = {n: replace(s, over_positions=False) for n, s in planned.items()}
        self.sums = Sums(by_example, run.network.template.double(), run.workers)
        self._examples = len(run.sample)
        self._listening = self._listener(run)
        clip = noise.clip
        if not isinstance(clip, Mapping):
            clip = self._median_norms(run, clip)
        self._privacy = noise.guaranteed(_checked(clip, planned))

    @property
    @override
    def privacy(self) -> Privacy:
        return self._privacy

    @property
    @override
    def positions(self) -> dict[str, int | None]:
        """Of none: how many there are is not for others to know."""
        return dict.fromkeys(self.sums.planned)

    @override
    def on_input(self, call: LayerCall) -> None:
        super().on_input(call)
        self._listening.on_input(call)

    @override
    def on_cotangents(self, call: LayerCall, g: Tensor) -> None:
        self._listening.on_cotangents(call, g)

    @override
    def add_inputs(self, factor: str, call: LayerCall, *, bias: bool) -> None:
        """Nothing before the examples are clipped."""

    @override
    def end_of_backward(self) -> None:
        self._listening.end_of_backward()

    @override
    def end_of_batch(self, loaded: Loaded) -> None:
        clip = self._privacy.clip
        for each in self._listening.take():
            self.sums.add_outer(each.factor, each.clipped(clip[each.factor]))

    @override
    def factors(self, weight: int) -> dict[str, Factor]:
        found: dict[str, Factor] = {}
        for name in list(self.sums.tensors):
            mean = self.sums.take(name, self._examples)
            sigma = deviation(self.privacy, name, self._examples)
            published = cleaned(with_noise(mean, sigma), sigma)
            found[name] = Dense(published.to(torch.float32))
        return found

    def _listener(self, run: Run) -> Contributing:
        exact = run.sample.cotangents.draws is None
        return Contributing(
            run.coverage, sums_draws=exact, forward_only=self.forward_only
        )

    def _median_norms(self, run: Run, public: Examples) -> dict[str, float]:
        """Median norms of the contributions of public examples."""
        indices = choose_examples(len(public), PUBLIC, run.sample.cotangents.seed)
        sample = replace(run.sample, examples=public, indices=indices, part=(0, 1))
        listener, norms = self._listener(run), defaultdict[str, list[Tensor]](list)
        passes = replace(run, sample=sample).passes(
            listener, run.coverage.layers, STAGE, forward_only=self.forward_only
        )
        for _ in passes:
            for each in listener.take():
                norms[each.factor].append(each.norms())
        return {n: float(torch.cat(found).median()) for n, found in norms.items()}


def _checked(
    clip: Mapping[str, float], planned: Mapping[str, FactorSum]
) -> dict[str, float]:
    for name in planned:
        if not clip.get(name, 0) > 0:
            raise SettingsError(
                f"{name} needs a clip norm above 0, and has {clip.get(name)}; give one "
                "of every factor, or other public data, or leave the module out"
            )
    return {name: clip[name] for name in planned}
