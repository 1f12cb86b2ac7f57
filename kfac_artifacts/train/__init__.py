"""Fine-tuning that leaves other tasks alone (TAK, Eq. 7)."""

from kfac_artifacts.train.heads import (
    check_names,
    class_texts,
    model_logit_scale,
    prototype_head,
    read_texts,
    text_head,
)
from kfac_artifacts.train.loop import train
from kfac_artifacts.train.parameters import choose_parameters
from kfac_artifacts.train.penalties import Penalty, PenaltySettings
from kfac_artifacts.train.regimes import Regime
from kfac_artifacts.train.run import TrainingProgress
from kfac_artifacts.train.settings import TrainSettings, steps_of
from kfac_artifacts.train.task import TrainingTask

__all__ = [
    "Penalty",
    "PenaltySettings",
    "Regime",
    "TrainSettings",
    "TrainingProgress",
    "TrainingTask",
    "check_names",
    "choose_parameters",
    "class_texts",
    "model_logit_scale",
    "prototype_head",
    "read_texts",
    "steps_of",
    "text_head",
    "train",
]
