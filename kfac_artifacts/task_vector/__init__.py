"""Task vectors: what fine-tuning changed, as something that can be added and saved."""

from kfac_artifacts.task_vector.head import Head
from kfac_artifacts.task_vector.vector import TaskVector, combine

__all__ = ["Head", "TaskVector", "combine"]
