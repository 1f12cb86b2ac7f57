"""Merging artifacts of one base model into one of constant size (TAK, Eq. 8).

For dataset sizes n_t: ``A = Σ n_t A_t / Σ n_t``, ``B = Σ B_t``, Gramian blocks
``Σ n_t G_t / Σ n_t``. Sums and counts are kept, so merging is associative and a task
can be taken out again: total - own = the others.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.merge.compatible import (
        fit_of as fit_of,
        has_total as has_total,
    )
    from kfac_artifacts.merge.error import merge_errors as merge_errors
    from kfac_artifacts.merge.join import join_parts as join_parts
    from kfac_artifacts.merge.merging import merge as merge, weights as weights

export_lazily(__name__)
