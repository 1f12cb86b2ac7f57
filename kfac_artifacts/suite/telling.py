"""Warnings of trainings, each with the training that it is of."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

TRAINING = logging.getLogger("kfac_artifacts.train")
logger = logging.getLogger(__name__)


class _Named(logging.Handler):
    """Tells again what is told, and of what it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.training = name

    @override
    def emit(self, record: logging.LogRecord) -> None:
        logger.log(record.levelno, "%s: %s", self.training, record.getMessage())


@contextmanager
def telling_of(name: str) -> Iterator[None]:
    """Have what a training warns of begin with its name, for a while.

    Args:
        name: What to call the training.

    Yields:
        Nothing.
    """
    handler, propagated = _Named(name), TRAINING.propagate
    TRAINING.addHandler(handler)
    TRAINING.propagate = False
    try:
        yield
    finally:
        TRAINING.propagate = propagated
        TRAINING.removeHandler(handler)
