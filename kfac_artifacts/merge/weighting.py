"""What the inputs of tasks are weighed by: the sizes of their data, or positions.

By positions a merged A is the mean over the positions of all tasks, so that
``positions · A`` is the sum of ``a aᵀ`` over all of them; B and Gramians are merged as
ever.
"""

from collections.abc import Mapping, Sequence

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.choices import WEIGHTINGS
from kfac_artifacts.errors import MismatchError, SettingsError


def chosen_weighting(artifacts: Sequence[Artifact], wanted: str | None) -> str:
    """Choose the weighting of a merge.

    Args:
        artifacts: What is added and taken out.
        wanted: What was asked for; None for what totals among them have.

    Returns:
        One of ``WEIGHTINGS``.

    Raises:
        SettingsError: If there is none of that name.
        MismatchError: If a total was merged by another one, or a block does not say
            how many positions its A is the mean of, where that matters.
    """
    if wanted not in {None, *WEIGHTINGS}:
        raise SettingsError(
            f"there is no weighting {wanted!r}; choose from {', '.join(WEIGHTINGS)}"
        )
    told = [a.provenance.weighting for a in artifacts if a.provenance.tasks > 1]
    usual = WEIGHTINGS[0]
    weighting = wanted or (told[0] if told else usual)
    other = next((each for each in told if each != weighting), None)
    if other is not None:
        raise MismatchError(
            f"the inputs of a total were weighed by {other}, and by {weighting} here; "
            f"merge its tasks anew, or weigh by {other}"
        )
    if weighting != usual:
        _require_counts(artifacts)
    return weighting


def merged_positions(blocks: Sequence[Block], signs: Sequence[int]) -> int | None:
    """Count the positions of all parts of a block; None if one does not say."""
    counts = [block.positions for block in blocks]
    if None in counts:
        return None
    pairs = zip(counts, signs, strict=True)
    return sum(sign * (count or 0) for count, sign in pairs)


def position_weights(
    parts: Sequence[tuple[Artifact, int]],
    names: Mapping[str, Sequence[str]],
) -> dict[str, list[float]]:
    """Weigh the A of every part by its positions.

    Args:
        parts: Artifacts that are added (1) or taken out (-1).
        names: Of every merged factor its name in each part.

    Returns:
        The weights, which sum to 1, of the merged factors that are an A.
    """
    counts = [_counts(artifact) for artifact, _ in parts]
    found = {}
    for name, theirs in names.items():
        if theirs[0] not in counts[0]:
            continue
        signed = [
            sign * own[factor]
            for (_, sign), own, factor in zip(parts, counts, theirs, strict=True)
        ]
        total = sum(signed)
        # an expert that nothing has reached has no inputs to weigh
        found[name] = [each / total if total else 0.0 for each in signed]
    return found


def _counts(artifact: Artifact) -> dict[str, int]:
    """The positions of every A."""
    return {
        name: block.positions or 0
        for block in artifact.blocks.values()
        for name in block.inputs
    }


def _require_counts(artifacts: Sequence[Artifact]) -> None:
    for number, artifact in enumerate(artifacts, 1):
        for name, block in artifact.blocks.items():
            if block.inputs and block.positions is None:
                raise MismatchError(
                    f"{name} of artifact {number} does not say of how many positions "
                    "its A is the mean, so that it cannot be weighed by them: compute "
                    "it again, or weigh by size"
                )
