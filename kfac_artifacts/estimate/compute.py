"""Model and data in, artifact out: the curvature of one task."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, Cotangents, Provenance, Source
from kfac_artifacts.errors import KfacError, SourceError
from kfac_artifacts.estimate import cotangents as ct
from kfac_artifacts.estimate.accumulate import Accumulator
from kfac_artifacts.estimate.coverage import Coverage, prove
from kfac_artifacts.estimate.inventory import take_inventory
from kfac_artifacts.estimate.passes import Pass, requiring_gradients
from kfac_artifacts.network import Examples, Network

ONE_DRAW = Cotangents("mc", 1, 0)


def compute(
    network: Network,
    examples: Examples,
    *,
    count: int = 256,
    cotangents: Cotangents = ONE_DRAW,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> Artifact:
    """Compute the Kronecker factors of the Jacobian Gramian at θ0 (TAK, Sec. 3.3).

    A is a mean over examples and positions; B is a mean over examples of the sum over
    positions, and over draws. No labels are used. The model is left as it was found.

    Args:
        network: The pretrained model and its output map.
        examples: The data; ``count`` of them are chosen by the seed.
        count: How many examples to use; all, if there are fewer.
        cotangents: ``mc`` with draws and seed, or ``exact``.
        only: Patterns of parameter names to cover; empty means every parameter.
        exclude: Patterns of parameter names to leave out.
        batch_size: Examples per pass; it changes nothing but speed and memory.
        progress: Told after every batch how many examples were done.

    Returns:
        The artifact, in memory, on the CPU.

    Raises:
        SourceError: If there are no examples.
        CoverageError: If no parameter can be covered.
        KfacError: If the network's output is not finite, or a setting is impossible.
    """
    ct.check(cotangents)
    indices = choose(len(examples), count, cotangents.seed)
    inventory = take_inventory(network.module, only=tuple(only), exclude=tuple(exclude))
    coverage = prove(network, inventory, examples.batch([indices[0], indices[-1]]))
    accumulator = Accumulator(coverage)
    with requiring_gradients(network, wanted=False):
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            _one_batch(network, examples, batch, cotangents, coverage, accumulator)
            progress(len(batch))
    blocks, factors = accumulator.blocks(len(indices) * ct.divisor(cotangents))
    covered = {p for block in blocks.values() for p in block.parameters}
    provenance = Provenance(
        base=network.base.restrict(covered),
        output_map=network.output_map.info,
        estimator="kfac",
        tasks=1,
        size=len(examples),
        sources=(Source(examples.info(indices), cotangents),),
        excluded=tuple(inventory.excluded),
        uncovered=inventory.uncovered,
    )
    on_cpu = {name: factor.to("cpu") for name, factor in factors.items()}
    return Artifact(provenance, blocks, on_cpu)


def choose(total: int, count: int, seed: int) -> list[int]:
    """Choose examples by a seed; the same for every batch size and process.

    Args:
        total: Number of examples there are.
        count: Number wanted.
        seed: The seed.

    Returns:
        At most ``count`` different numbers, in rising order.

    Raises:
        SourceError: If there are none, or none are wanted.
    """
    if total < 1 or count < 1:
        raise SourceError(
            f"no examples to compute from: there are {total}, and {count} are wanted"
        )
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(total, generator=generator)[:count].tolist())


def _one_batch(
    network: Network,
    examples: Examples,
    indices: Sequence[int],
    cotangents: Cotangents,
    coverage: Coverage,
    accumulator: Accumulator,
) -> None:
    passed = Pass(network, coverage.sites, examples.batch(indices), accumulator)
    if passed.failures:
        site, reason = next(iter(passed.failures.items()))
        raise KfacError(f"{site.name}: {reason}")
    _check_finite(passed.f, indices)
    accumulator.end_of_forward(passed.calls)
    passes = ct.count(cotangents, passed.f.shape[1])
    for k, s in enumerate(ct.vectors(cotangents, indices, passed.f)):
        passed.backward(s, last=k == passes - 1)
        accumulator.end_of_backward()


def _check_finite(f: Tensor, indices: Sequence[int]) -> None:
    finite = f.detach().isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = [i for i, good in zip(indices, finite.tolist(), strict=True) if not good]
        raise KfacError(
            f"the model's output is not finite for example {bad[0]} (and "
            f"{len(bad) - 1} more); try --dtype float32, or look at the example"
        )
