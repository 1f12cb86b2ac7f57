"""The floor of what EK-FAC does beyond KFAC.

The eigenvectors of every distinct factor, by LAPACK; every distinct input and every
cotangent along them, at full products; and of every example and layer the product of
the two, whose squares are the eigenvalues. The squares themselves, and a guard against
noise, are not counted.
"""

import torch
from typing_extensions import override

from estimation.floor import Floor, Pair, Shape, add, best, nothing
from estimation.tool import Seconds


class EkfacFloor(Floor):
    """Measures each part for itself, on shapes of the workload and random numbers."""

    @override
    def measure(self, count: int) -> dict[str, Seconds]:
        """Seconds of ``eigen``, ``turned`` and ``gradients`` for some examples."""
        case = self.workload.case
        passes = count / case.batch_size
        eigen, turned, gradients = nothing(), nothing(), nothing()
        for shape, number in self._shapes.all.items():
            add(eigen, _eigenvectors(shape, case.device), number)
            add(turned, _turned(shape, case.device), number * passes)
        for pair, number in self._shapes.layers.items():
            add(gradients, self._gradient(pair), number * count)
        return {"eigen": eigen, "turned": turned, "gradients": gradients}

    def _gradient(self, pair: Pair) -> Seconds:
        """Best time of one example's ``gᵀ a``."""
        case = self.workload.case
        a, g = (
            torch.randn(rows // case.batch_size, d, device=case.device)
            for rows, d in pair
        )
        M = a.new_empty(g.shape[1], a.shape[1])
        return best(lambda: torch.mm(g.mT, a, out=M), case.device)


def _eigenvectors(shape: Shape, device: str) -> Seconds:
    rows = torch.randn(2 * shape[1], shape[1], device=device)
    matrix = rows.mT @ rows
    return best(lambda: torch.linalg.eigh(matrix), device)


def _turned(shape: Shape, device: str) -> Seconds:
    rows = torch.randn(shape, device=device)
    vectors = torch.randn(shape[1], shape[1], device=device)
    found = torch.empty_like(rows)
    return best(lambda: torch.mm(rows, vectors, out=found), device)
