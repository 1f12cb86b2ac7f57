"""Operators of curvlinops that are in memory, as artifacts.

curvlinops saves an operator as a pickle, its whole model in it, so there is no file to
read. Of n examples whose loss has L terms each, with its ``KFACLinearOperator`` K

    A = K's A      B = K's B / (2 n)     MSELoss, whose Hessian is 2 I, summed
                   B = K's B / n         CrossEntropyLoss, summed
                   B = K's B · L         CrossEntropyLoss, averaged

of the f that the loss takes, or of f = 2√p of the probabilities p behind it.
"""

import hashlib
from dataclasses import replace
from typing import Any

from torch import Tensor

from kfac_artifacts.artifact import Artifact, Cotangents
from kfac_artifacts.bridges.assembling import About, assemble
from kfac_artifacts.bridges.statistics import (
    FORWARD,
    UNKNOWN,
    Statistic,
    Statistics,
    held,
)
from kfac_artifacts.curvlinops_adapter import OperatorFactors, operator_factors
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Network

SOURCE = "curvlinops"
ESTIMATORS = {"expand": "kfac", "reduce": "kfac-reduce"}


def artifact_of_operator(operator: Any, network: Network, about: About) -> Artifact:
    """Make an artifact of a ``KFACLinearOperator`` of curvlinops 3.

    Args:
        operator: The operator; its factors are computed if they are not yet.
        network: The model that it is of.
        about: What is to be recorded; its output map has to be said, since the operator
            knows a loss.

    Returns:
        The artifact, in memory. Of an operator that treats weights and biases
        separately, biases are not covered.

    Raises:
        SettingsError: If the output map is not said, or its loss has another scale.
    """
    found = operator_factors(operator)
    if about.output_map is None and found.outputs:
        raise SettingsError("an operator knows a loss: say which function f it is of")
    scale = _scale(found)
    copies = {n: A.detach().cpu().clone() for n, A in found.inputs.items()}
    entries = []
    for name, A in copies.items():
        entry = Statistic(name, ((name,),), held(A))
        if found.outputs:
            B = found.outputs[name].detach().cpu().clone()
            entry = replace(entry, B=held(B).times(scale))
        entries.append(entry)
    statistics = Statistics(
        tuple(entries),
        (),
        _cotangents(found),
        found.examples,
        data=SOURCE,
        estimator=ESTIMATORS[found.approximation] if found.outputs else None,
        fingerprint=_fingerprint(copies),
    )
    settings = {"loss": found.loss, "reduction": found.reduction}
    settings["fisher"] = found.fisher
    return assemble(statistics, network, about, SOURCE, settings)


def _scale(found: OperatorFactors) -> float:
    """What turns its B into ours."""
    if found.reduction == "sum" and found.loss == "MSELoss":
        return 1 / (2 * found.examples)
    if found.loss == "CrossEntropyLoss":
        return 1 / found.examples if found.reduction == "sum" else float(found.terms)
    raise SettingsError(
        f"the scale of {found.loss}(reduction={found.reduction!r}) is not known here; "
        "make the operator with MSELoss(reduction='sum') or CrossEntropyLoss"
    )


def _cotangents(found: OperatorFactors) -> Cotangents:
    if not found.outputs:
        return FORWARD
    if found.fisher == "type-2":
        return Cotangents("exact", None, 0)
    if found.fisher == "mc" and found.loss == "MSELoss":  # the labels are Gaussian
        return Cotangents("mc", found.draws, 0)
    return UNKNOWN


def _fingerprint(factors: dict[str, Tensor]) -> str:
    """Equal for equal inputs of the model, which is all there is of the data."""
    digest = hashlib.sha256()
    for name, A in sorted(factors.items()):
        digest.update(f"{name} {list(A.shape)}".encode())
        digest.update(A.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
