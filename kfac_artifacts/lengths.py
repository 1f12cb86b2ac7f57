"""Texts by their length, so that little of a batch is padding."""

from collections.abc import Sequence

from kfac_artifacts.network import Batch, Examples

WINDOW = 1024
"""Examples that are put in order together: of more, neighbours would be far apart."""
AT_ONCE = 64
"""Texts that are encoded together to see how long they are."""


def longest_first(examples: Examples, indices: Sequence[int]) -> list[int]:
    """Put some examples in order, the longest text first.

    The first batch then takes the most memory. Texts of one length, and what is no
    text, stay as they are.

    Args:
        examples: The dataset.
        indices: Numbers of examples.

    Returns:
        Their places among ``indices``.
    """
    places = list(range(len(indices)))
    if not indices or not _are_texts(examples.batch([indices[0]])):
        return places
    lengths: list[int] = []
    for start in range(0, len(indices), AT_ONCE):
        some = examples.batch(indices[start : start + AT_ONCE])
        lengths += some["attention_mask"].sum(1).tolist()
    return sorted(places, key=lambda place: -lengths[place])


def _are_texts(batch: Batch) -> bool:
    """Whether a batch is of texts alone: images take long to decode, and are alike."""
    whole = (v.ndim == 2 and not v.is_floating_point() for v in batch.values())
    return "attention_mask" in batch and all(whole)
