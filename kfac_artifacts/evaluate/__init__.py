"""Accuracy of task vectors alone and added together."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.evaluate.plot import plot_evaluation
    from kfac_artifacts.evaluate.results import Evaluation, ModeScores, TaskScores
    from kfac_artifacts.evaluate.score import EvaluationTask, evaluate

__all__ = [
    "Evaluation",
    "EvaluationTask",
    "ModeScores",
    "TaskScores",
    "evaluate",
    "plot_evaluation",
]

export_lazily(
    __name__,
    {
        "Evaluation": "results",
        "EvaluationTask": "score",
        "ModeScores": "results",
        "TaskScores": "results",
        "evaluate": "score",
        "plot_evaluation": "plot",
    },
)
