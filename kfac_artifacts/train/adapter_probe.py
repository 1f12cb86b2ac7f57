"""λ of an adapter without a guess, as ``probe`` chooses it for task vectors.

A few steps without the penalty give ``τ = s V U``. The own loss curves along it by
``h = τᵀ H τ``: the variance of the change of a token's logits under its probabilities,
a mean over tokens. That change, linearised, is the derivative at V = 0 along V, with U
as it is, so that τ is never formed.
"""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.functional import cross_entropy

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.linearize import jvp
from kfac_artifacts.network import Batch, Network, OutputMap
from kfac_artifacts.train.adapter_run import AdapterRun, take_step
from kfac_artifacts.train.predictions import IGNORED, labels_of, logits_of
from kfac_artifacts.train.probe import require_weight, steps_of_probe
from kfac_artifacts.train.record import spread
from kfac_artifacts.train.underway import Probe

MEASURED, AT_ONCE = 32, 2


def probe_adapter(run: AdapterRun) -> Probe:
    """Train for a few steps without the penalty, look, and go back.

    Args:
        run: A run before its first step, with a penalty; it is left as it was.

    Returns:
        What was seen, the same in all processes.

    Raises:
        SettingsError: If no λ follows from it; a number has to be given.
    """
    if run.penalty is None:
        raise SettingsError(
            "λ cannot be chosen where nothing is held back: give curvature, or leave "
            "the weight of the penalty out"
        )
    steps = steps_of_probe(run.settings)
    free = dataclasses.replace(run, settings=run.settings.weighed(0.0), recent=[])
    with _restored(run):
        run.model.train()
        for _ in range(steps):
            take_step(free)
        with torch.no_grad():
            drift = float(run.penalty())
            loss, after, curvature = _own(run)
            seen = Probe(steps, loss, after, curvature, drift)
    found: Probe = broadcast_object_list([seen])[0]
    require_weight(found)
    return found


@contextmanager
def _restored(run: AdapterRun) -> Iterator[None]:
    """Put the adapter back where it was, and let the optimiser forget."""
    live = run.parameters
    start = {name: value.detach().clone() for name, value in live.items()}
    try:
        yield
    finally:
        run.optimizer.zero_grad()
        run.optimizer.state.clear()
        _set(live, start)


def _own(run: AdapterRun) -> list[float]:
    """The own loss at θ0, linearised at τ, and how it curves between them."""
    rows = spread(run.indices, MEASURED)
    rows = rows[run.accelerator.process_index :: run.accelerator.num_processes]
    module, network = run.network.module, run.network
    left: dict[str, Tensor] = {
        n: p for n, p in module.named_parameters() if _is_left(n, p)
    }
    tau = {name: value.detach().clone() for name, value in left.items()}
    logits = OutputMap(NamedConfig("org.kfac/logits"), _flat_logits)
    beside = copy.copy(network)  # another one would refuse a module with an adapter
    beside.output_map = logits
    sums = torch.zeros(4, dtype=torch.float64, device=network.device)
    _set(left, {name: torch.zeros_like(value) for name, value in left.items()})
    try:
        for start in range(0, len(rows), AT_ONCE):
            batch = run.examples.batch(rows[start : start + AT_ONCE])
            sums += _sums(beside, tau, batch)
    except CoverageError as error:
        raise SettingsError(
            f"the weight of the penalty cannot be chosen, so give a number: {error}"
        ) from error
    finally:
        _set(left, tau)
    *total, tokens = run.accelerator.reduce(sums, "sum").tolist()
    return [each / tokens for each in total]


def _is_left(name: str, parameter: Tensor) -> bool:
    """Whether it is a V, which begins as zeros: what the change is linear in."""
    return parameter.requires_grad and (
        ".lora_B." in name or ".lora_embedding_B." in name
    )


def _set(live: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(values[name])


def _flat_logits(module: Any, batch: Batch) -> Tensor:
    return logits_of(module, batch).flatten(1)


def _sums(network: Network, tau: dict[str, Tensor], batch: Batch) -> Tensor:
    """Losses at θ0 and linearised, the variance, and tokens, summed over a batch."""
    output, change = jvp(network, tau, batch)
    labels = labels_of(batch)
    before, slope = (
        z.unflatten(1, (labels.shape[1], -1))[:, :-1].flatten(0, 1).float()
        for z in (output, change)
    )
    wanted = labels[:, 1:].flatten().to(before.device)
    real = wanted != IGNORED
    before, slope, wanted = before[real], slope[real], wanted[real]
    losses = [
        cross_entropy(z, wanted, reduction="sum") for z in (before, before + slope)
    ]
    p = before.softmax(-1)
    mean = (p * slope).sum(-1, keepdim=True)
    curved = (p * (slope - mean).square()).sum()
    return torch.stack([*losses, curved, real.sum()]).double()
