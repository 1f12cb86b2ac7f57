"""Accuracy of task vectors alone and added together."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.evaluate.plot import plot_evaluation
    from kfac_artifacts.evaluate.results import Evaluation, ModeScores, TaskScores
    from kfac_artifacts.evaluate.score import MODES, EvaluationTask, evaluate

__all__ = [
    "MODES",
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
        "MODES": "score",
        "Evaluation": "results",
        "EvaluationTask": "score",
        "ModeScores": "results",
        "TaskScores": "results",
        "evaluate": "score",
        "plot_evaluation": "plot",
    },
)
