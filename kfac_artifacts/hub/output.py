"""What is written to stderr while files are pushed and pulled."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, INFO, LogRecord, StreamHandler, getLogger

from huggingface_hub import constants
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

LINE_SECONDS = 10.0
"""The least time between two lines that tell of progress."""


@contextmanager
def client_output(*, bars: bool, lines: bool = False) -> Iterator[None]:
    """Hide the client's warnings, and its progress bars if they are not wanted.

    What they warn of is retried, reported or raised here.

    Args:
        bars: Whether progress bars may be shown; the environment may decide it.
        lines: Whether to write a line now and then, for whoever reads it in a log.

    Yields:
        Nothing; the client is as before when the block is left.
    """
    verbosity = logging.get_verbosity()
    hide = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not bars
    logging.set_verbosity(ERROR)
    if hide:
        disable_progress_bars()
    try:
        with _lines(shown=lines):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()


class _NowAndThen(StreamHandler):  # type: ignore[type-arg]
    """Writes the records that say more, and of the others one in ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.next = time.monotonic() + LINE_SECONDS

    def emit(self, record: LogRecord) -> None:
        now = time.monotonic()
        if now >= self.next or getattr(record, "at_once", False):
            self.next = now + LINE_SECONDS
            super().emit(record)


@contextmanager
def _lines(*, shown: bool) -> Iterator[None]:
    if not shown:
        yield
        return
    logger = getLogger("kfac_artifacts.hub")
    level, handler = logger.level, _NowAndThen()
    logger.addHandler(handler)
    logger.setLevel(INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
