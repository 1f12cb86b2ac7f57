"""Merging artifacts of one base model into one of constant size (TAK, Eq. 8).

For dataset sizes n_t: ``A = Σ n_t A_t / Σ n_t``, ``B = Σ B_t``, Gramian blocks
``Σ n_t G_t / Σ n_t``. Sums and counts are kept, so merging is associative and a task
can be taken out again: total - own = the others.
"""

from kfac_artifacts.merge.error import merge_errors
from kfac_artifacts.merge.join import join
from kfac_artifacts.merge.merging import merge, weights

__all__ = ["join", "merge", "merge_errors", "weights"]
