"""Verifying an artifact: everything the format promises, and that it is a curvature."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, BaseModel, KroneckerBlock
from kfac_artifacts.definite import extreme_ratio
from kfac_artifacts.errors import FormatError
from kfac_artifacts.factors import Factor, Role, eigenvalue_ratio
from kfac_artifacts.format import StoredFactors, check_hashes, open_artifact

ASYMMETRY = 1e-6
"""Largest relative asymmetry: readers may rely on half of the matrix."""
INDEFINITE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2, "int8": 5e-2}
"""How negative an eigenvalue may be, relative to the largest, by what rounding does."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        good: Whether it is as it should be.
        what: What was looked at: a file, a factor, or the whole.
        message: What was found.
    """

    good: bool
    what: str
    message: str


def verify(
    path: str | Path,
    base: BaseModel | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Finding]:
    """Check an artifact on disk thoroughly.

    Args:
        path: The artifact's directory.
        base: The pretrained model to compare with, if there is one at hand.
        progress: Told after every factor.

    Returns:
        The findings; one that is not good means that the artifact must not be used.
    """
    try:
        artifact = open_artifact(path)
    except FormatError as error:
        return [Finding(False, "format", str(error))]
    blocks = len(artifact.blocks)
    findings = [Finding(True, "format", f"version 1, {blocks} blocks, sizes agree")]
    try:
        check_hashes(path)
        findings.append(Finding(True, "hashes", "every file has its sha256"))
    except FormatError as error:
        return [*findings, Finding(False, "hashes", str(error))]
    findings += _factor_findings(artifact, progress)
    if base is not None:
        findings += base_findings(artifact, base)
    return findings


def base_findings(artifact: Artifact, base: BaseModel) -> list[Finding]:
    """Compare the base model of an artifact with a model at hand.

    Args:
        artifact: The artifact.
        base: The model at hand.

    Returns:
        One finding if all weights agree, else one for each that does not.
    """
    bad = []
    for name, info in artifact.provenance.base.parameters.items():
        found = base.parameters.get(name)
        if found is None:
            bad.append(Finding(False, name, f"{base.id} has no such parameter"))
        elif found.shape != info.shape:
            message = f"{base.id} has shape {found.shape}, the artifact {info.shape}"
            bad.append(Finding(False, name, message))
        elif found.sha256 != info.sha256:
            bad.append(Finding(False, name, f"the values in {base.id} are others"))
    count = len(artifact.provenance.base.parameters)
    return bad or [Finding(True, "base model", f"all {count} covered weights agree")]


def _factor_findings(
    artifact: Artifact, progress: Callable[[int], None]
) -> Iterator[Finding]:
    lowest = (0.0, "none")
    count = 0
    sums = {
        name: block
        for name, block in artifact.blocks.items()
        if isinstance(block, KroneckerBlock) and len(block.terms) > 1
    }
    summed = {name for block in sums.values() for name in block.factors}
    for name in artifact.factors:
        fault, relative = _look(artifact, name, summed=name in summed)
        lowest = min(lowest, (relative, name))
        if fault is not None:
            yield Finding(False, name, fault)
        else:
            count += 1
        progress(1)
    if count == len(artifact.factors):
        what = "finite, symmetric and semidefinite"
        if sums:
            what += f", except that {len(summed)} are terms of sums"
        yield Finding(True, "factors", f"{count} {what}")
        yield Finding(
            True,
            "eigenvalues",
            f"smallest λ_min / λ_max is {lowest[0]:.1e} ({lowest[1]})",
        )
        yield from _sum_findings(artifact, sums)


def _sum_findings(
    artifact: Artifact, sums: Mapping[str, KroneckerBlock]
) -> Iterator[Finding]:
    """Tell the lowest eigenvalue of sums of terms, none of which tells it alone."""
    found = {}
    for name, block in sums.items():
        factors = {factor: artifact.factors[factor] for factor in block.factors}
        found[name] = extreme_ratio(block, factors)
    if found:
        worst = min(found, key=lambda name: found[name])
        yield Finding(
            True,
            "sums of terms",
            f"smallest λ_min / λ_max of {len(found)} is about {found[worst]:.1e} "
            f"({worst}); below zero a penalty may reward some drift",
        )


def _look(artifact: Artifact, name: str, *, summed: bool) -> tuple[str | None, float]:
    """What is wrong with a factor, and its λ_min / λ_max; zero if it is zero."""
    try:
        factor = artifact.factors[name]
    except FormatError as error:
        return str(error), 0.0
    for field, tensor in factor.tensors().items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            return f"{field} has {bad} values that are not finite", 0.0
    asymmetry = _asymmetry(factor)
    if asymmetry > ASYMMETRY:
        return f"not symmetric: relative asymmetry {asymmetry:.2e}", 0.0
    if summed:
        return None, 0.0
    wide = factor.to(dtype=torch.float64)
    relative = eigenvalue_ratio(*wide.eigenvalue_range())
    if relative < -_tolerance(artifact, name):
        return f"indefinite: λ_min / λ_max = {relative:.2e}", relative
    return None, relative


def _asymmetry(factor: Factor) -> float:
    """``‖M - Mᵀ‖ / ‖M‖`` over the matrices that are stored in full."""
    fields = factor.fields(factor.dim, factor.configuration)
    stored = [x for n, x in factor.leaves().items() if fields[n].role is Role.MATRIX]
    matrices = [x for x in stored if isinstance(x, Tensor)]
    size = sum(float(m.square().sum()) for m in matrices)
    loss = sum(float((m - m.mT).square().sum()) for m in matrices)
    return (loss / size) ** 0.5 if size > 0 else 0.0


def _tolerance(artifact: Artifact, name: str) -> float:
    if isinstance(artifact.factors, StoredFactors):
        return INDEFINITE[artifact.factors.infos[name].storage.dtype]
    return INDEFINITE["float32"]
