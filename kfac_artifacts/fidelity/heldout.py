"""Which examples to look at: none that the artifact was computed from."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kfac_artifacts.artifact import Artifact, DataInfo
from kfac_artifacts.chosen import chosen_for
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.fidelity.results import HeldOut
from kfac_artifacts.network import Examples
from kfac_artifacts.seeding import seeded

FEWEST = 3
"""Of fewer examples there are no pairs to spare, and no standard error."""


@dataclass(frozen=True)
class Choice:
    """Examples by number.

    Attributes:
        indices: The held-out ones, in rising order.
        spare: Others, to take gradients of.
        held_out: The held-out ones in words.
    """

    indices: list[int]
    spare: list[int]
    held_out: HeldOut


def hold_out(
    artifact: Artifact, examples: Examples, count: int, seed: int, *, spare: int = 0
) -> Choice:
    """Choose examples that the artifact was not computed from.

    Args:
        artifact: The artifact.
        examples: The data.
        count: How many examples to hold out; all that are left, if there are fewer.
        seed: Seed of the choice.
        spare: How many others to set aside; at most a quarter, if there are few.

    Returns:
        The choice.

    Raises:
        SettingsError: If too few are left.
    """
    known = set[int]()
    for source in artifact.provenance.sources:
        known |= chosen_for(source, examples)
    order = torch.randperm(len(examples), generator=seeded(seed)).tolist()
    left = [index for index in order if index not in known]
    aside = min(spare, max(len(left) - count, len(left) // 4))
    indices = sorted(left[aside:][:count])
    if len(indices) < FEWEST:
        raise SettingsError(
            f"{len(indices)} of {len(examples)} examples can be held out, since the "
            f"artifact was computed from {len(known)} of them; at least {FEWEST} are "
            "needed: give other data, such as a test split"
        )
    info = examples.info(indices)
    return Choice(
        indices, left[:aside], HeldOut(info, len(known), _doubt(artifact, info, known))
    )


def _doubt(artifact: Artifact, info: DataInfo, known: set[int]) -> str | None:
    if known or not any(_same_name(artifact, info)):
        return None
    return (
        f"the artifact was computed from data of the same name, {info.id}, but not as "
        "they are here; which examples it has seen cannot be told, so the errors may "
        "be too small"
    )


def _same_name(artifact: Artifact, info: DataInfo) -> Iterator[bool]:
    for source in artifact.provenance.sources:
        data = source.data
        yield (data.id, data.config, data.split) == (info.id, info.config, info.split)
