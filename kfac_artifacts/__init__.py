"""Publish, merge and use the curvature of a pretrained network.

The words are those of the ``kfac`` command: ``compute``, ``merge``, ``compress``,
``push``, ``pull``, ``verify``, ``train``, ``apply``, ``evaluate``. Every name is
imported when it is used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
    from kfac_artifacts.compress import (
        Budget,
        Recipe,
        compression_report,
        save_artifact,
    )
    from kfac_artifacts.errors import KfacError
    from kfac_artifacts.estimate import (
        ComputeOptions,
        Effort,
        Estimator,
        Kfac,
        KfacReduce,
        Nearest,
        Plan,
        choose_estimator,
        compute,
        compute_with_curvlinops,
        plan,
        save_together,
    )
    from kfac_artifacts.evaluate import EvaluationTask, evaluate
    from kfac_artifacts.fidelity import fidelity
    from kfac_artifacts.format import load_artifact
    from kfac_artifacts.hub import pull, push
    from kfac_artifacts.linearize import linearize
    from kfac_artifacts.merge import join, merge
    from kfac_artifacts.network import Network, OutputMap, TensorExamples
    from kfac_artifacts.operator import CurvatureOperator
    from kfac_artifacts.penalty import KfacPenalty
    from kfac_artifacts.sources import (
        apply,
        encode_texts,
        load_examples,
        load_network,
        make_head,
    )
    from kfac_artifacts.task_vector import ClassifierHead, TaskVector
    from kfac_artifacts.train import PenaltySettings, TrainingTask, TrainSettings, train
    from kfac_artifacts.verify import verify

__all__ = [
    "Artifact",
    "Budget",
    "ClassifierHead",
    "ComputeOptions",
    "Cotangents",
    "CurvatureOperator",
    "Effort",
    "Estimator",
    "EvaluationTask",
    "Kfac",
    "KfacError",
    "KfacPenalty",
    "KfacReduce",
    "NamedConfig",
    "Nearest",
    "Network",
    "OutputMap",
    "PenaltySettings",
    "Plan",
    "Recipe",
    "TaskVector",
    "TensorExamples",
    "TrainSettings",
    "TrainingTask",
    "apply",
    "choose_estimator",
    "compression_report",
    "compute",
    "compute_with_curvlinops",
    "encode_texts",
    "evaluate",
    "fidelity",
    "join",
    "linearize",
    "load_artifact",
    "load_examples",
    "load_network",
    "make_head",
    "merge",
    "plan",
    "pull",
    "push",
    "save_artifact",
    "save_together",
    "train",
    "verify",
]

export_lazily(
    __name__,
    {
        "Artifact": "artifact",
        "Budget": "compress",
        "ClassifierHead": "task_vector",
        "ComputeOptions": "estimate",
        "Cotangents": "artifact",
        "CurvatureOperator": "operator",
        "Effort": "estimate",
        "Estimator": "estimate",
        "EvaluationTask": "evaluate",
        "Kfac": "estimate",
        "KfacError": "errors",
        "KfacPenalty": "penalty",
        "KfacReduce": "estimate",
        "NamedConfig": "artifact",
        "Nearest": "estimate",
        "Network": "network",
        "OutputMap": "network",
        "PenaltySettings": "train",
        "Plan": "estimate",
        "Recipe": "compress",
        "TaskVector": "task_vector",
        "TensorExamples": "network",
        "TrainSettings": "train",
        "TrainingTask": "train",
        "apply": "sources",
        "choose_estimator": "estimate",
        "compression_report": "compress",
        "compute": "estimate",
        "compute_with_curvlinops": "estimate",
        "encode_texts": "sources",
        "evaluate": "evaluate",
        "fidelity": "fidelity",
        "join": "merge",
        "linearize": "linearize",
        "load_artifact": "format",
        "load_examples": "sources",
        "load_network": "sources",
        "make_head": "sources",
        "merge": "merge",
        "plan": "estimate",
        "pull": "hub",
        "push": "hub",
        "save_artifact": "compress",
        "save_together": "estimate",
        "train": "train",
        "verify": "verify",
    },
)
