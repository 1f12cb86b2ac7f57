"""Task vectors made one: one file per method."""

from kfac_artifacts.task_vector.merging.base import (
    Merging,
    Method,
    merge_task_vectors,
    merging_by,
)

__all__ = ["Merging", "Method", "merge_task_vectors", "merging_by"]
