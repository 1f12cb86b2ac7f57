"""The corrected eigenvalues of one block of EK-FAC, from looks at the examples."""

from collections.abc import Sequence
from typing import final

from kfac_artifacts.capture import Record
from kfac_artifacts.estimate.estimators.ekfac_scale import CrossFit
from kfac_artifacts.factors import LowRank, floats
from kfac_artifacts.workers import Workers


@final
class EigenvalueFit:
    """S of one block: one look at the examples, after another one if it is shrunk.

    Args:
        name: Of the block.
        B: The eigenvectors of its B.
        A: Those of its A.
        shrinkage: Whether S is multiplied by what two halves of the examples agree on.

    Attributes:
        S: The eigenvalues, ``[d_out, d_in]``, once it is done.
        done: Whether no further look at the data is needed.
    """

    def __init__(self, name: str, B: LowRank, A: LowRank, *, shrinkage: bool) -> None:
        self.done = False
        self.S = B.values.new_zeros(len(B.values), len(A.values))
        self._bases = floats(B.vectors), floats(A.vectors)
        self._scale = CrossFit(name, self.S) if shrinkage else None

    def add(self, record: Record, numbers: Sequence[int]) -> None:
        """Show a batch.

        Args:
            record: The block on N examples.
            numbers: Places of these examples among all; even and odd ones are halves.
        """
        if self._scale is not None:
            self._scale.add(record, numbers)
            if not self._scale.has_vectors:
                return
        record.add_squares(self.S, *self._bases)

    def close(self, workers: Workers, examples: int) -> None:
        """End a look.

        Args:
            workers: The processes that add up what they saw.
            examples: Number of examples, of all processes.
        """
        if self._scale is not None and not self._scale.has_vectors:
            self._scale.find_vectors(workers)
            return
        self.S = workers.sum(self.S) / examples
        if self._scale is not None:
            self.S *= self._scale.factor(workers, examples)
        self.done = True
