"""Fine-tuning that leaves other tasks alone (TAK, Eq. 7)."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.train.adapters import train_adapter as train_adapter
    from kfac_artifacts.train.heads import (
        USUAL_LOGIT_SCALE as USUAL_LOGIT_SCALE,
        check_names as check_names,
        class_texts as class_texts,
        linear_head as linear_head,
        model_logit_scale as model_logit_scale,
        prototype_head as prototype_head,
        read_texts as read_texts,
        scale_for as scale_for,
        text_head as text_head,
    )
    from kfac_artifacts.train.loop import train as train
    from kfac_artifacts.train.parameters import choose_parameters as choose_parameters
    from kfac_artifacts.train.peft_lora import LoraSettings as LoraSettings
    from kfac_artifacts.train.penalties import (
        Others as Others,
        Penalty as Penalty,
        PenaltySettings as PenaltySettings,
        Weight as Weight,
    )
    from kfac_artifacts.train.predictions import (
        measure_predictions as measure_predictions,
    )
    from kfac_artifacts.train.regimes import (
        Regime as Regime,
        RegimeMaker as RegimeMaker,
        choose_regime as choose_regime,
    )
    from kfac_artifacts.train.settings import (
        TrainSettings as TrainSettings,
        steps_of as steps_of,
    )
    from kfac_artifacts.train.task import (
        Learning as Learning,
        TrainingTask as TrainingTask,
    )
    from kfac_artifacts.train.underway import TrainingProgress as TrainingProgress

export_lazily(__name__)
