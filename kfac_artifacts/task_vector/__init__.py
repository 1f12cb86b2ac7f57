"""Task vectors: what fine-tuning changed, as something that can be added and saved."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.task_vector.head import ClassifierHead
    from kfac_artifacts.task_vector.manifest import read_manifest
    from kfac_artifacts.task_vector.merging import Merging, combine
    from kfac_artifacts.task_vector.vector import TaskVector

__all__ = ["ClassifierHead", "Merging", "TaskVector", "combine", "read_manifest"]

export_lazily(
    __name__,
    {
        "ClassifierHead": "head",
        "Merging": "merging",
        "TaskVector": "vector",
        "combine": "merging",
        "read_manifest": "manifest",
    },
)
