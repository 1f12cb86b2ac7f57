"""Which examples of a dataset are chosen, and whether it is that of a task."""

import torch

from kfac_artifacts.artifact import Source
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Examples
from kfac_artifacts.seeding import seeded


def choose_examples(total: int, count: int, seed: int) -> list[int]:
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
    return sorted(torch.randperm(total, generator=seeded(seed))[:count].tolist())


def chosen_for(source: Source, examples: Examples) -> set[int]:
    """Find which examples a task was computed from, if these are its data.

    Which ones they would be follows from the seed in its provenance; the fingerprint
    proves it.

    Args:
        source: The task.
        examples: Any data.

    Returns:
        Their numbers; none if these are other data, or they were changed.
    """
    data = source.data
    if data.size != len(examples):
        return set()
    indices = choose_examples(data.size, data.examples, source.cotangents.seed)
    same = examples.info(indices).fingerprint == data.fingerprint
    return set(indices) if same else set()
