"""What task vectors do: added, subtracted, one beside another, and where."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.evaluate.counting import (
        Counted as Counted,
        Counts as Counts,
        Vector as Vector,
    )
    from kfac_artifacts.evaluate.disentanglement import (
        Disentanglement as Disentanglement,
        DisentanglementMap as DisentanglementMap,
        disentanglement as disentanglement,
    )
    from kfac_artifacts.evaluate.localisation import (
        Localisation as Localisation,
        LocalisedVector as LocalisedVector,
        auroc as auroc,
        localise as localise,
    )
    from kfac_artifacts.evaluate.negation import (
        KEEP as KEEP,
        ControlTask as ControlTask,
        negate as negate,
    )
    from kfac_artifacts.evaluate.negation_results import (
        NegatedTask as NegatedTask,
        Negation as Negation,
        NegationScores as NegationScores,
    )
    from kfac_artifacts.evaluate.plot import plot_evaluation as plot_evaluation
    from kfac_artifacts.evaluate.plot_protocols import (
        plot_disentanglement as plot_disentanglement,
        plot_localisation as plot_localisation,
        plot_negation as plot_negation,
    )
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
    from kfac_artifacts.evaluate.score import evaluate as evaluate
    from kfac_artifacts.evaluate.tasks import EvaluationTask as EvaluationTask
    from kfac_artifacts.evaluate.union import (
        union_head as union_head,
        with_union_head as with_union_head,
    )

export_lazily(__name__)
