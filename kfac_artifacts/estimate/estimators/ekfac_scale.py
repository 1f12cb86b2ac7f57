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

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.capture import Record, RecordBatch, Run
from kfac_artifacts.seeding import seeded

RANK = 8
"""Vectors of each side of a block that are looked at."""
HALVES = (0, 1)


class CrossFit:
    """Finds the factor of every block, from two looks at the examples.

    Args:
        run: The passes.
        sizes: d_out and d_in of every block.
        like: What the numbers are like.
    """

    def __init__(
        self, run: Run, sizes: Mapping[str, tuple[int, int]], like: Tensor
    ) -> None:
        self._run = run
        self._sizes = dict(sizes)
        self._like = like
        count = len(run.sample)
        self._counts = (count - count // 2, count // 2)
        self._bases: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._sums: dict[str, list[list[Tensor]]] = {}

    def prepare(self, batches: Iterable[RecordBatch]) -> None:
        """Find the leading vectors of every half, from one look.

        Args:
            batches: The records of all examples.
        """
        starts = {name: self._starts(name) for name in self._sizes}
        sketches = {
            name: [[torch.zeros_like(start) for start in pair] for _ in HALVES]
            for name, pair in starts.items()
        }
        with self._run.workers.stage():
            for ordinals, records in batches:
                for name in self._sizes if ordinals else ():
                    turned = _sketched(records[name], starts[name])
                    for half, places in _halves(ordinals):
                        own = zip(
                            sketches[name][half], turned, starts[name], strict=True
                        )
                        for sketch, side, start in own:
                            rows = side[places].flatten(0, 2)
                            sketch.addmm_(rows.mT, rows @ start)
        for name, pair in starts.items():
            self._bases[name] = []
            for half in HALVES:
                found = [
                    leading(start, self._run.workers.sum(sketch))
                    for start, sketch in zip(pair, sketches[name][half], strict=True)
                ]
                self._bases[name].append((found[0], found[1]))
            self._sums[name] = [
                [self._like.new_zeros(len(W), len(U)) for _ in HALVES]
                for W, U in self._bases[name]
            ]

    def add(self, name: str, record: Record, ordinals: Sequence[int]) -> None:
        """Look at some examples of a block, in the bases of both halves."""
        a = record.inputs
        for (W, U), sums in zip(self._bases[name], self._sums[name], strict=True):
            M = (record.g @ W.mT).mT @ (a @ U.mT)[:, None]
            squares = M.square().mean(1)
            for half, places in _halves(ordinals):
                sums[half] += squares[places].sum(0)

    def factors(self) -> dict[str, float]:
        """The factor of every block, from 0 to 1; 1 where nothing can be said."""
        found = {}
        for name, of_bases in self._sums.items():
            shared = size = 0.0
            for half in HALVES:
                own, other = (
                    self._run.workers.sum(of_bases[half][which]).double()
                    / max(self._counts[which], 1)
                    for which in (half, 1 - half)
                )
                shared += float((own * other).sum())
                size += float(own.square().sum())
            known = size > 0 and min(self._counts) > 0
            found[name] = of_all(shared / size) if known else 1.0
        return found

    def _starts(self, name: str) -> tuple[Tensor, Tensor]:
        """Random columns to begin with, for outputs and inputs."""
        d_out, d_in = self._sizes[name]
        generator = seeded(f"ekfac {name}")
        one, other = (
            torch.randn(d, min(RANK, d), generator=generator).to(self._like)
            for d in (d_out, d_in)
        )
        return one, other


def _sketched(
    record: Record, starts: tuple[Float[Tensor, "d_out r"], Float[Tensor, "d_in q"]]
) -> tuple[Float[Tensor, "n k q d_out"], Float[Tensor, "n k r d_in"]]:
    """Turn the gradients M of examples by random columns Ω_o and Ω_i.

    Args:
        record: The examples; however it keeps its gradients, nothing else counts.
        starts: Ω_o and Ω_i.

    Returns:
        ``(M Ω_i)ᵀ`` and ``Ω_oᵀ M``.
    """
    output, inputs = starts
    g, a = record.g, record.inputs
    outward = (g.mT @ (a @ inputs)[:, None]).mT
    return outward, (g @ output).mT @ a[:, None]


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


def _halves(ordinals: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The places of the examples of each half, where there are some."""
    places = [
        [place for place, ordinal in enumerate(ordinals) if ordinal % 2 == half]
        for half in HALVES
    ]
    return [(half, own) for half, own in enumerate(places) if own]
