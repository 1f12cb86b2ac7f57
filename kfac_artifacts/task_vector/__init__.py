"""Task vectors: what fine-tuning changed, as something that can be added and saved."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.task_vector.head import ClassifierHead
    from kfac_artifacts.task_vector.manifest import read_manifest
    from kfac_artifacts.task_vector.vector import TaskVector, combine

__all__ = ["ClassifierHead", "TaskVector", "combine", "read_manifest"]

export_lazily(
    __name__,
    {
        "ClassifierHead": "head",
        "TaskVector": "vector",
        "combine": "vector",
        "read_manifest": "manifest",
    },
)
