"""Accuracy of task vectors alone and added together."""

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
