"""Publish, merge and use the curvature of a pretrained network.

The words are those of the ``kfac`` command: ``compute``, ``merge``, ``push``, ``pull``,
``verify``, ``train``, ``apply``, ``evaluate``.
"""

from kfac_artifacts.artifact import Artifact, Cotangents
from kfac_artifacts.errors import KfacError
from kfac_artifacts.estimate import compute
from kfac_artifacts.evaluate import EvaluationTask, evaluate
from kfac_artifacts.format import load, open_artifact, save_artifact
from kfac_artifacts.linearize import linearize
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.task_vector import Head, TaskVector
from kfac_artifacts.train import TrainingTask, TrainSettings, train
from kfac_artifacts.verify import verify

__all__ = [
    "Artifact",
    "Cotangents",
    "EvaluationTask",
    "Head",
    "KfacError",
    "KfacPenalty",
    "Network",
    "OutputMap",
    "TaskVector",
    "TensorExamples",
    "TrainSettings",
    "TrainingTask",
    "compute",
    "evaluate",
    "linearize",
    "load",
    "merge",
    "open_artifact",
    "save_artifact",
    "train",
    "verify",
]
