"""For what an artifact is fit, judged by what its header tells."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kfac_artifacts.artifact import Block, Loss
from kfac_artifacts.choices import NO_INPUTS
from kfac_artifacts.compress.measures import worse
from kfac_artifacts.format import FactorInfo, Header

LIMITS: Mapping[str, float] = {
    "error": 0.95,
    "inverse_error": 0.1,
    "null_overlap": 0.95,
    "diagonal_error": 0.05,
}
"""From where on a measure is too bad for the use that asks for it.

- error: on real tasks penalties with factors off by up to 0.92 (``block-8``) lost half
  a point at most of the linearised model's accuracy, those off by 0.98 (``diagonal``)
  3.9, and those off by more than they are large (``prune-30%``) 2: the figures of
  ``benchmarks/fitness.py`` and ``benchmarks/compression.py``;
- inverse_error: a step ``C⁻¹ k`` of MEMIT or GPTQ is then off by about a tenth, no more
  than the damping of 1 % to 10 % that is chosen by hand moves it;
- null_overlap: an update that is projected keeps all but a twentieth of its squared
  length out of what is used;
- diagonal_error: importances are used to compare coordinates that differ by factors;
  a twentieth is what some thousand examples leave open as well.
"""
FREE = 0.01
"""Error above which a low rank without a diagonal lets directions that matter go."""
ROUNDED: Mapping[str, float] = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Relative errors that rounding to these types has at most, recorded or not."""
USES: Mapping[str, tuple[str, str, str]] = {
    "penalty": ("penalty", "error", ""),
    "inverse": ("inverse of the curvature (Laplace, influence)", "inverse_error", ""),
    "input_inverse": ("inverse of A (MEMIT, GPTQ-like)", "inverse_error", "A"),
    "null_space": ("null space of A (AlphaEdit, LoRA-Null)", "null_overlap", "A"),
    "diagonal": ("diagonal of A (imatrix, Wanda)", "diagonal_error", "A"),
}
"""Uses by name: in words, the measure that they ask for, and of which factors."""


@dataclass(frozen=True)
class Use:
    """Whether an artifact is fit for a use.

    Attributes:
        name: One of ``USES``.
        fit: Whether it is; None if that is not known.
        reason: Why it is not, or not known; or what comes nearest to that.
        factor: The factor that limits it, if one does.
        value: Its measure, if it is known.
    """

    name: str
    fit: bool | None
    reason: str
    factor: str | None = None
    value: float | None = None


def judge_uses(header: Header) -> list[Use]:
    """Say for what an artifact is fit; what nobody recorded is unknown.

    Args:
        header: Everything about the artifact but its tensors.

    Returns:
        Every use of ``USES``, in that order.
    """
    return [_judged(header, name) for name in USES]


def _judged(header: Header, name: str) -> Use:
    _, measure, role = USES[name]
    reason = _hindrance(header, name, role)
    if reason is not None:
        return Use(name, fit=False, reason=reason)
    used = list(dict.fromkeys(_factors(header.blocks, role)))
    if not used:
        return Use(name, fit=False, reason="it has no A")
    losses, known = header.provenance.losses, dict[str, float]()
    unknown = []
    for factor in used:
        info, loss = header.factors[factor], losses.get(factor)
        if measure == "inverse_error" and _has_no_inverse(loss):
            return Use(name, fit=False, reason="no damped inverse", factor=factor)
        if measure == "error" and _lets_go(info, loss):
            return Use(name, fit=False, reason="directions go free", factor=factor)
        value = _known(info, loss, measure)
        if value is not None:
            known[factor] = value
        elif not (measure == "null_overlap" and _measured(loss)):
            unknown.append(factor)
    return _concluded(name, measure, known, unknown)


def _concluded(
    name: str, measure: str, known: Mapping[str, float], unknown: list[str]
) -> Use:
    key, limit = worse(measure), LIMITS[measure]
    worst = max(known, key=lambda factor: key(known[factor]), default=None)
    if worst is not None and key(known[worst]) > key(limit):
        reason = f"{measure} {known[worst]:.3g}, limit {limit:g}"
        return Use(name, fit=False, reason=reason, factor=worst, value=known[worst])
    if unknown:
        reason = f"{measure} of {len(unknown)} factors is not recorded"
        return Use(name, fit=None, reason=reason, factor=unknown[0])
    if worst is None:
        return Use(name, fit=True, reason="no eigenvalue is small")
    if key(known[worst]) == 0:
        return Use(name, fit=True, reason="nothing was lost")
    reason = f"{measure} at worst {known[worst]:.3g}, limit {limit:g}"
    return Use(name, fit=True, reason=reason, factor=worst, value=known[worst])


def _hindrance(header: Header, name: str, role: str) -> str | None:
    """Why an artifact is not for a use, whatever its numbers are."""
    blocks, estimator = header.blocks.values(), header.provenance.estimator.name
    summed = next((n for n, block in header.blocks.items() if block.is_sum), None)
    if role == "A" and estimator in NO_INPUTS:
        return NO_INPUTS[estimator]
    if name != "penalty" and summed is not None:
        return f"{summed} is a sum of several terms, and no factor stands for it"
    if name == "inverse" and any(block.roles == ("A",) for block in blocks):
        return "it has A alone"
    return None


def _factors(blocks: Mapping[str, Block], role: str) -> Iterator[str]:
    for block in blocks.values():
        for term in block.terms:
            for own, factor in zip(block.roles, term, strict=True):
                if role in ("", own):
                    yield factor


def _known(info: FactorInfo, loss: Loss | None, measure: str) -> float | None:
    """A measure of a factor, recorded or bounded; None if it is not known."""
    if loss is not None:
        found: float | None = getattr(loss, measure)
        return found
    rank = info.structure.configuration.get("rank", info.dim)
    if info.structure.name == "pruned" or rank != info.dim:
        return None
    if info.storage.exact:
        return 1.0 if measure == "null_overlap" else 0.0
    bound = ROUNDED.get(info.storage.name.removeprefix("symmetric-"))
    return bound if measure in ("error", "diagonal_error") else None


def _measured(loss: Loss | None) -> bool:
    return loss is not None and loss.diagonal_error is not None


def _has_no_inverse(loss: Loss | None) -> bool:
    return _measured(loss) and loss is not None and loss.inverse_error is None


def _lets_go(info: FactorInfo, loss: Loss | None) -> bool:
    """Whether what a low rank drops costs nothing, though it matters."""
    configuration = info.structure.configuration
    partial = info.structure.name == "low_rank" and not configuration["diagonal"]
    return partial and loss is not None and loss.error > FREE
