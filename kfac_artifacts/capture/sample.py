"""The sample: which examples are used, in which batches, and with which cotangents."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import ENOUGH_EXAMPLES, Cotangents
from kfac_artifacts.capture import cotangents as ct
from kfac_artifacts.errors import SourceError
from kfac_artifacts.lengths import LongestFirst
from kfac_artifacts.network import Batch, Examples, OutputMap, RowsOfExamples

FEW = 16
"""Texts among which a short and a long one are looked for."""
LARGEST = 2**27
"""Numbers of f of a batch, at most: 512 MiB of float32, and a pass needs several."""


def require_enough(examples: Examples, indices: Sequence[int]) -> None:
    """Refuse so few examples that their curvature shows each of them.

    Args:
        examples: The dataset.
        indices: Numbers of the chosen examples; those that are equal count once. Of
            those that are made of several as many of these must differ.

    Raises:
        SourceError: If there are fewer than ``ENOUGH_EXAMPLES``.
    """
    different, parts = set[str](), set[str]()
    for index in indices:
        own = fingerprint(examples.batch([index]))
        different.add(own)
        if isinstance(examples, RowsOfExamples):
            parts.update(examples.parts(index))
        else:
            parts.add(own)
        if min(len(different), len(parts)) >= ENOUGH_EXAMPLES:
            return
    _refuse_few(len(indices), min(len(different), len(parts)))


def require_rows(count: int) -> None:
    """Refuse too few examples before it is known which of them are equal.

    Args:
        count: How many will be chosen, at most.

    Raises:
        SourceError: If there are fewer than ``ENOUGH_EXAMPLES``.
    """
    if count < ENOUGH_EXAMPLES:
        _refuse_few(count, count)


def _refuse_few(count: int, different: int) -> None:
    found = f"{count} examples" + f", {different} different" * (different < count)
    raise SourceError(
        f"{found}: what is computed of fewer than {ENOUGH_EXAMPLES} different ones "
        "shows each of them, word for word (spec/privacy.md); give more, or allow it "
        "if others may see them (allow_few=True, --allow-few)"
    )


def fingerprint(batch: Batch) -> str:
    """SHA-256 of an example as the model gets it, whatever its number and label."""
    digest = hashlib.sha256()
    for name, values in sorted(batch.items()):
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        content = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def bounded(batch_size: int, output_map: OutputMap, batch: Batch) -> int:
    """Lower a batch size where f of so many examples would take too much memory.

    Args:
        batch_size: Examples per pass, as asked for.
        output_map: The function f.
        batch: Examples of which the longest is typical.

    Returns:
        The batch size; less if f has a distribution for every token, of so many classes
        that those of a batch would be more than ``LARGEST``.
    """
    if not output_map.ragged:
        return batch_size
    tokens = max(values.shape[1] for values in batch.values() if values.ndim > 1)
    return max(1, min(batch_size, LARGEST // (tokens * output_map.classes)))


def pair_to_prove(examples: Examples, indices: Sequence[int]) -> list[int]:
    """Choose two examples on which to prove coverage, and that f is each one's own.

    Args:
        examples: The dataset.
        indices: Numbers of the chosen examples.

    Returns:
        The shortest and the longest of a few, so that padding is seen; of examples of
        one length the first and the last. One twice if there is one alone.
    """
    few = [*indices[:: max(1, len(indices) // FEW)], indices[-1]]
    lengths = _lengths(examples, list(dict.fromkeys(few)))
    chosen = sorted(lengths, key=lambda index: lengths[index])
    return [chosen[0], chosen[-1]]


def _lengths(examples: Examples, indices: Sequence[int]) -> dict[int, int]:
    """How many real positions each has; without a mask, numbers of its own batch."""
    batch = examples.batch(indices)
    if "attention_mask" in batch:
        counts = batch["attention_mask"].sum(1).tolist()
        return dict(zip(indices, counts, strict=True))
    # what is filled up for a longer one is found without a mask, too
    own = ([*examples.batch([index]).values()] for index in indices)
    return {i: sum(t.numel() for t in b) for i, b in zip(indices, own, strict=True)}


@dataclass(frozen=True)
class Loaded:
    """A batch.

    Attributes:
        ordinals: Ordinals of its examples.
        batch: The examples.
        done: How many examples are done with it, of the process that has the most if
            all have as many batches.
    """

    ordinals: Sequence[int]
    batch: Batch
    done: int


@dataclass(frozen=True)
class Sample:
    """The chosen examples of a dataset, and their cotangents.

    Attributes:
        examples: The dataset.
        indices: Numbers of the chosen examples; the place of one here is its ordinal.
        cotangents: What is pulled back for each.
        batch_size: Examples per pass; it changes nothing but speed and memory.
        part: Which process this is, and of how many: each takes its share of them.
        classes: Of each distribution that f is made of; 0 if it is not.
    """

    examples: Examples
    indices: Sequence[int]
    cotangents: Cotangents
    batch_size: int
    part: tuple[int, int] = (0, 1)
    classes: int = 0

    def __len__(self) -> int:
        """Number of chosen examples, of all processes."""
        return len(self.indices)

    @property
    def weight(self) -> int:
        """What sums over examples and passes are divided by."""
        return len(self.indices) * ct.divisor(self.cotangents)

    @cached_property
    def ordinals(self) -> Sequence[int]:
        """Ordinals that fall to this process."""
        number, count = self.part
        return range(number, len(self.indices), count)

    def batches(self, start: int = 0, *, even: bool = False) -> Iterator[Loaded]:
        """Give the batches of this process, each encoded while the one before is used.

        Texts come by their length, the longest first, so that little is padding.

        Args:
            start: Where to begin: the ``done`` of the last batch that is done.
            even: Whether to give every process as many batches, at the end some
                without ordinals, whose one example counts for nothing.

        Yields:
            The batches, in order.
        """
        size, end = self.batch_size, len(self.ordinals)
        if even:
            end = -(-len(self.indices) // self.part[1])
        places = range(start, end, size)
        with ThreadPoolExecutor(1, "batches") as thread:
            following: Future[tuple[Sequence[int], Batch]] | None = None
            for number, place in enumerate(places):
                coming = following or thread.submit(self._load, place)
                following = None
                part, batch = coming.result()
                if number + 1 < len(places):
                    following = thread.submit(self._load, places[number + 1])
                yield Loaded(part, batch, min(place + size, end))

    def count(self, ordinals: Sequence[int], f: Float[Tensor, "n c"]) -> int:
        """Number of cotangents of every example of a batch."""
        return ct.count(self.cotangents, f.shape[1])

    def vectors(
        self, ordinals: Sequence[int], f: Float[Tensor, "n c"]
    ) -> Iterator[Float[Tensor, "n c"]]:
        """Give the cotangents of a batch, one tensor per backward pass."""
        drawing = ct.Drawing(self.cotangents, self.indices, self.classes)
        yield from drawing.vectors(ordinals, f)

    def _load(self, place: int) -> tuple[Sequence[int], Batch]:
        """Choose and encode a batch; in one thread, as tokenisers are of one."""
        end = min(place + self.batch_size, len(self.ordinals))
        part = [self.ordinals[self._order[turn]] for turn in range(place, end)]
        return part, self._encode(part)

    @cached_property
    def _order(self) -> LongestFirst:
        """Turns of this process's examples; the batch size does not change them."""
        return LongestFirst(self.examples, [self.indices[r] for r in self.ordinals])

    def _encode(self, ordinals: Sequence[int]) -> Batch:
        chosen = [self.indices[ordinal] for ordinal in ordinals or range(1)]
        batch = self.examples.batch(chosen)
        if torch.cuda.is_available():
            return {name: values.pin_memory() for name, values in batch.items()}
        return batch
