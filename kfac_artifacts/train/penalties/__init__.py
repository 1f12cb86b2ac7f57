"""What holds a task vector back while it is trained: one file per penalty."""

from kfac_artifacts.train.penalties.base import (
    AUTO,
    Others,
    Penalty,
    PenaltySettings,
    Weight,
)

__all__ = ["AUTO", "Others", "Penalty", "PenaltySettings", "Weight"]
