"""Texts by their length, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

from kfac_artifacts.network import Batch, Examples

WINDOW = 1024
"""Examples that are put in order together: of more, neighbours would be far apart."""
AT_ONCE = 64
"""Texts that are encoded together to see how long they are."""


class LongestFirst:
    """Places of examples, in every window of ``WINDOW`` the longest text first.

    The first batch then takes the most memory. Texts of one length, and what is no
    text, stay as they are. Lengths are read window by window, once a place of it is
    asked for.

    Args:
        examples: The dataset.
        indices: Numbers of examples.
    """

    def __init__(self, examples: Examples, indices: Sequence[int]) -> None:
        self._examples = examples
        self._indices = indices
        self._windows: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        """All places, in turn."""
        return (self[turn] for turn in range(len(self)))

    def __getitem__(self, turn: int) -> int:
        """The place among ``indices`` of the example whose turn it is."""
        window, within = divmod(turn, WINDOW)
        if window not in self._windows:
            start = window * WINDOW
            some = self._indices[start : start + WINDOW]
            order = _longest_first(self._examples, some)
            self._windows[window] = [start + place for place in order]
        return self._windows[window][within]


def _longest_first(examples: Examples, indices: Sequence[int]) -> list[int]:
    """Places of a few examples, the longest text first."""
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
