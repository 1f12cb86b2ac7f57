"""What holds a task vector back while it is trained: one file per penalty."""

from kfac_artifacts.train.penalties.base import (
    USUAL_WEIGHT,
    Others,
    Penalty,
    PenaltySettings,
)

__all__ = ["USUAL_WEIGHT", "Others", "Penalty", "PenaltySettings"]
