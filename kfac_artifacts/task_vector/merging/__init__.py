"""Task vectors made one: one file per method."""

from kfac_artifacts.task_vector.merging.base import (
    Merging,
    Method,
    combine,
    merging_by,
)

__all__ = ["Merging", "Method", "combine", "merging_by"]
