"""How much of EK-FAC's eigenvalues is noise: a factor for each block, cross-fitted.

The eigenvectors of A and B were fitted to the very examples whose squares along them
give S, so that S is too large where the examples are few. With G the Gramian and K what
EK-FAC makes of the examples, ``‖G − α K‖`` is least at ``α = ⟨G, K⟩ / ‖K‖²``; α cannot
be read off the examples that made K. So each half of them, those with even and those
with odd numbers, makes the leading part K_h of its own K, and the other half, of which
K_h knows nothing, says what ``⟨G, K_h⟩`` is. What ``c = ⟨G, K_h⟩ / ‖K_h‖²`` means for
all examples together is ``2 c / (1 + c)`` (Spearman 1910; Brown 1910): half of the
noise. Leading vectors suffice, as they have nearly all of the norm.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import Record
from kfac_artifacts.seeding import seeded
from kfac_artifacts.workers import Workers

RANK = 8
"""Vectors of each side of a block that are looked at."""
HALVES = (0, 1)


class CrossFit:
    """Finds the factor of one block, from two looks at the examples.

    Args:
        name: Of the block.
        like: Its S, or anything of that shape.

    Attributes:
        has_vectors: Whether the first look is over.
    """

    def __init__(self, name: str, like: Float[Tensor, "d_out d_in"]) -> None:
        generator = seeded(f"ekfac {name}")
        self.has_vectors = False
        self._starts = [
            torch.randn(d, min(RANK, d), generator=generator).to(like)
            for d in like.shape
        ]
        self._sketches = [[*map(torch.zeros_like, self._starts)] for _ in HALVES]
        self._bases: list[Tensor] = []
        self._parts: list[tuple[slice, slice]] = []  # which vectors are of which half
        self._sums: list[Tensor] = []

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            numbers: Places of these examples among all.
        """
        halves = [
            (half, places)
            for half in HALVES
            if (places := [i for i, each in enumerate(numbers) if each % 2 == half])
        ]
        if not self.has_vectors:
            self._sketch(record, halves)
            return
        squares = _turned(record, *self._bases).square().mean(1)
        for half, places in halves:
            self._sums[half] += squares[places].sum(0)

    def _sketch(self, record: Record, halves: list[tuple[int, list[int]]]) -> None:
        outputs, inputs = self._starts
        sides = _turned(record, None, inputs.mT).mT, _turned(record, outputs.mT, None)
        for half, places in halves:
            of_half = zip(self._sketches[half], sides, self._starts, strict=True)
            for sketch, side, start in of_half:
                rows = side[places].flatten(0, 2)
                sketch.addmm_(rows.mT, rows @ start)

    def find_vectors(self, workers: Workers) -> None:
        """End the first look: find the leading vectors of either half.

        Args:
            workers: The processes that add up what they saw.
        """
        one, other = (
            [
                leading(start, workers.sum(sketch))
                for start, sketch in zip(self._starts, of_half, strict=True)
            ]
            for of_half in self._sketches
        )
        self._bases = [torch.cat(sides) for sides in zip(one, other, strict=True)]
        o, i = map(len, one)
        self._parts = [(slice(o), slice(i)), (slice(o, None), slice(i, None))]
        sizes = [len(side) for side in self._bases]
        self._sums = [self._starts[0].new_zeros(sizes) for _ in HALVES]
        self.has_vectors = True

    def factor(self, workers: Workers, examples: int) -> float:
        """End the second look.

        Args:
            workers: The processes that add up what they saw.
            examples: Number of examples, of all processes.

        Returns:
            The factor, from 0 to 1; 1 where nothing can be said.
        """
        counts = examples - examples // 2, examples // 2
        means = [
            workers.sum(total).double() / max(count, 1)
            for total, count in zip(self._sums, counts, strict=True)
        ]
        shared = size = 0.0
        for half, part in enumerate(self._parts):
            own, other = means[half][part], means[1 - half][part]
            shared += float((own * other).sum())
            size += float(own.square().sum())
        return of_all(shared / size) if size > 0 and min(counts) > 0 else 1.0


def _turned(
    record: Record, outputs: Tensor | None, inputs: Tensor | None
) -> Float[Tensor, "n k o i"]:
    """The gradients M of all examples in a few coordinates."""
    return torch.cat([*record.projections(outputs, inputs)])


def leading(
    start: Float[Tensor, "d r"], sketch: Float[Tensor, "d r"]
) -> Float[Tensor, "q d"]:
    """Find leading eigenvectors of C from ``C start`` (Nyström; Tropp et al. 2017).

    Args:
        start: Random columns.
        sketch: Their product with a semi-definite C.

    Returns:
        Orthonormal rows, q at most r; with r = d, and C of full rank, eigenvectors.
    """
    wide, columns = sketch.double(), start.double()
    inner = columns.mT @ wide
    values, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    kept = values > values[-1].clamp(min=0) * torch.finfo(start.dtype).eps
    roots = vectors[:, kept] / values[kept].sqrt()
    return torch.linalg.svd(wide @ roots, full_matrices=False)[0].mT.to(start)


def of_all(half: float) -> float:
    """What a factor of a half of the examples means for all of them."""
    return 2 * min(half, 1.0) / (1 + min(half, 1.0))
