"""Publish, merge and use the curvature of a pretrained network.

The words are those of the ``kfac`` command: ``compute``, ``merge``, ``compress``,
``push``, ``pull``, ``verify``, ``train``, ``apply``, ``evaluate``. What needs
transformers or the Hub is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kfac_artifacts.artifact import Artifact, Cotangents, Named
from kfac_artifacts.compress import Budget, Recipe, compare, save_compressed
from kfac_artifacts.errors import KfacError
from kfac_artifacts.estimate import Estimator, Job, compute
from kfac_artifacts.evaluate import EvaluationTask, evaluate
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.format import load, open_artifact, save_artifact
from kfac_artifacts.linearize import linearize
from kfac_artifacts.merge import join, merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.operator import CurvatureOperator
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.task_vector import Head, TaskVector
from kfac_artifacts.train import TrainingTask, TrainSettings, train
from kfac_artifacts.verify import verify

if TYPE_CHECKING:
    from kfac_artifacts.hub import pull, push
    from kfac_artifacts.sources import (
        apply,
        encode_texts,
        load_examples,
        load_network,
        make_head,
    )

__all__ = [
    "Artifact",
    "Budget",
    "Cotangents",
    "CurvatureOperator",
    "Estimator",
    "EvaluationTask",
    "Head",
    "Job",
    "KfacError",
    "KfacPenalty",
    "Named",
    "Network",
    "OutputMap",
    "Recipe",
    "TaskVector",
    "TensorExamples",
    "TrainSettings",
    "TrainingTask",
    "apply",
    "compare",
    "compute",
    "encode_texts",
    "evaluate",
    "fidelity",
    "join",
    "linearize",
    "load",
    "load_examples",
    "load_network",
    "make_head",
    "merge",
    "open_artifact",
    "pull",
    "push",
    "save_artifact",
    "save_compressed",
    "train",
    "verify",
]

_ELSEWHERE = {
    "apply": "sources",
    "encode_texts": "sources",
    "load_examples": "sources",
    "load_network": "sources",
    "make_head": "sources",
    "pull": "hub",
    "push": "hub",
}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
