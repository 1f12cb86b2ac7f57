"""What the numbers of a comparison mean for who wants to use the artifact."""

from kfac_artifacts.fidelity.agreement import Agreement
from kfac_artifacts.fidelity.results import Fidelity

CLOSE, FAIR = 0.3, 0.7
"""Relative Frobenius errors up to which curvature is called close, and fair."""
OFF = 1.25
"""A factor between predicted and true drift that is worth telling."""
ORDERED = 0.7
"""Rank correlation from which directions are said to be told apart."""


def verdict(found: Fidelity) -> list[str]:
    """Say in words how good an artifact is, and what would help.

    Args:
        found: What was measured.

    Returns:
        Sentences, the most important one first.
    """
    said = [_closeness(found), _scale(found)]
    said += [_drifts(kind, d.modules) for kind, d in found.directions.items()]
    said += [_between(found), _doubt(found)]
    return [sentence for sentence in said if sentence]


def _closeness(found: Fidelity) -> str:
    error, cosine = found.total.error, found.total.cosine
    if error is None or cosine is None:
        return "The true curvature is zero on these examples: there is nothing to say."
    size = f"relative error {error:.2f}, cosine {cosine:.2f}"
    if error <= CLOSE:
        return f"Close to the true curvature of its modules ({size})."
    if error <= FAIR:
        return f"A fair approximation of its modules' true curvature ({size})."
    better = (
        ""
        if "nearest" in found.estimator
        else "; `--estimator nearest` usually comes closer"
    )
    if error <= 1:
        return f"A rough approximation of its modules' true curvature ({size}){better}."
    return f"Further from the true curvature than zero would be ({size}){better}."


def _scale(found: Fidelity) -> str:
    scale = found.total.best_scale
    if scale is None or scale <= 0 or 1 / OFF <= scale <= OFF:
        return ""
    much = "too large" if scale < 1 else "too small"
    return (
        f"Its scale is {much}: multiplied by {scale:.2g} the error would be smallest "
        "(a λ chosen for one artifact makes up for that)."
    )


def _drifts(kind: str, modules: Agreement) -> str:
    if modules.ratio is None:
        return ""
    name = {"random": "random directions", "gradient": "gradients of other data"}
    along = name.get(kind, "the task vectors")
    ratio = modules.ratio
    if 1 / OFF <= ratio <= OFF:
        seen = "about the true drift"
    else:
        seen = f"{ratio:.2g} times the true drift"
    ranks = modules.rank_correlation
    if ranks is None:
        return f"Along {along}, module by module, it sees {seen}."
    order = "and tells" if ranks >= ORDERED else "but does not tell"
    return (
        f"Along {along}, module by module, it sees {seen}, {order} much from little "
        f"(rank correlation {ranks:.2f})."
    )


def _between(found: Fidelity) -> str:
    """Curvature that is kept block by block lacks what is between modules."""
    ratios = [
        (d.agreement.ratio, d.modules.ratio)
        for kind, d in found.directions.items()
        if kind != "random"
    ]
    known = [(whole, own) for whole, own in ratios if whole is not None and own]
    lost = [whole for whole, own in known if whole * 2 < own]
    if not lost:
        return ""
    return (
        f"When all modules move together it sees {min(lost):.2g} of the drift: what is "
        "between modules is in no artifact that is kept block by block."
    )


def _doubt(found: Fidelity) -> str:
    uncertainty = found.total.uncertainty
    if uncertainty is None or uncertainty < 0.1:
        return ""
    return (
        f"The error is uncertain by {uncertainty:.2g}; more --examples would settle it."
    )
