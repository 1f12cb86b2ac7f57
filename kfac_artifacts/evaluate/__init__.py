"""Task vectors at work, alone and added together: accuracies, and predictions."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.evaluate.plot import plot_evaluation as plot_evaluation
    from kfac_artifacts.evaluate.predict import (
        Predictions as Predictions,
        predict as predict,
        trained_mode as trained_mode,
    )
    from kfac_artifacts.evaluate.results import (
        Evaluation as Evaluation,
        ModeScores as ModeScores,
        TaskScores as TaskScores,
    )
    from kfac_artifacts.evaluate.score import (
        EvaluationTask as EvaluationTask,
        evaluate as evaluate,
    )

export_lazily(__name__)
