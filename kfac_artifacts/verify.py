"""Verifying an artifact: everything the format promises, and that it is a curvature."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kfac_artifacts.artifact import Artifact, BaseModel, Block
from kfac_artifacts.definiteness import extreme_ratio
from kfac_artifacts.errors import FactorError, FormatError, listed
from kfac_artifacts.factors import (
    MOST_ROWS,
    Factor,
    dear_rows,
    eigenvalue_ratio,
    rounding,
)
from kfac_artifacts.format import check_hashes, load_artifact
from kfac_artifacts.progress import Advance, unseen


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
    progress: Advance = unseen,
) -> list[Finding]:
    """Check an artifact on disk thoroughly.

    Args:
        path: The artifact's directory.
        base: The pretrained model to compare with, if there is one at hand.
        progress: Called with 1 after every factor.

    Returns:
        The findings; one that is not good means that the artifact must not be used.
    """
    try:
        artifact = load_artifact(path, verify=False)
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
    own = artifact.provenance.base
    bad = [
        Finding(False, name, found)
        for name in own.parameters
        for found in own.restrict({name}).differences(base)
    ]
    count = len(own.parameters)
    return bad or [Finding(True, "base model", f"all {count} covered weights agree")]


def _factor_findings(artifact: Artifact, progress: Advance) -> Iterator[Finding]:
    ratios: dict[str, float | None] = {}
    count = 0
    sums = {name: block for name, block in artifact.blocks.items() if block.is_sum}
    summed = {name for block in sums.values() for name in block.factors}
    for name in artifact.factors:
        try:
            factor = artifact.factors[name]
            if name not in summed:
                ratios[name] = _ratio(factor)
                allowed = rounding(exact=artifact.factors.is_exact(name))
                _check_ratio(ratios[name], allowed)
            count += 1
        except (FormatError, FactorError) as error:
            yield Finding(False, name, str(error))
        progress(1)
    if count == len(artifact.factors):
        what = "finite, symmetric and semidefinite"
        if sums:
            what += f", except that {len(summed)} are terms of sums"
        yield Finding(True, "factors", f"{count} {what}")
        if ratios:
            yield _eigenvalue_finding(ratios)
        yield from _sum_findings(artifact, sums)


def _ratio(factor: Factor) -> float | None:
    """λ_min / λ_max, or None if it would take too large a matrix."""
    if dear_rows(factor) > MOST_ROWS:
        return None
    return eigenvalue_ratio(*factor.to(dtype=torch.float64).eigenvalue_range())


def _check_ratio(ratio: float | None, allowed: float) -> None:
    if ratio is not None and not ratio >= -allowed:
        raise FactorError(f"indefinite: λ_min / λ_max = {ratio:.2e}")


def _eigenvalue_finding(ratios: Mapping[str, float | None]) -> Finding:
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    left_out = [name for name in ratios if name not in found]
    said = []
    if found:
        name = min(found, key=lambda name: found[name])
        said.append(f"smallest λ_min / λ_max is {found[name]:.1e} ({name})")
    if left_out:
        said.append(
            f"not computed of {listed(left_out, 3)}, of more than {MOST_ROWS} rows"
        )
    return Finding(True, "eigenvalues", "; ".join(said))


def _sum_findings(artifact: Artifact, sums: Mapping[str, Block]) -> Iterator[Finding]:
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
