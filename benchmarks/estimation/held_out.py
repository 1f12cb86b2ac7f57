"""How far our estimators are from the curvature of examples they have not seen."""

import torch

from estimation.config import Case
from estimation.models import SEED, workload
from estimation.ours import EMBEDDING
from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.estimate import choose_estimator, compute
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.network import Network, TensorExamples

ESTIMATORS = ("kfac", "ekfac", "nearest")


def held_out_errors(case: Case) -> dict[str, float]:
    """Estimate from half of a workload's examples, and compare with the other half.

    Args:
        case: The workload, with twice the examples of an estimation.

    Returns:
        The relative Frobenius error of all blocks, by estimator.
    """
    torch.set_num_threads(case.threads)
    ready, half = workload(case), case.examples // 2
    network = Network(ready.f, EMBEDDING, "random weights")
    train, others = (
        TensorExamples({"x": x}, "random examples") for x in ready.x.split(half)[:2]
    )
    found = {}
    for name in ESTIMATORS:
        artifact = compute(
            network,
            train,
            count=half,
            cotangents=Cotangents("orthogonal", 1, SEED),
            estimator=choose_estimator(name),
            allow_few=True,
            batch_size=case.batch_size,
        )
        measured = fidelity(
            artifact, network, others, count=half, directions=1, seed=SEED
        )
        found[name] = measured.total.error
    return found
