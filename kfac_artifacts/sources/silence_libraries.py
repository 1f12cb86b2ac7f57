"""Hold back what other libraries print; what matters is raised as an error."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars and reports of ``transformers`` and ``datasets`` for a while."""
    before = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        datasets.logging.get_verbosity(),
        datasets.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        datasets.logging.set_verbosity(before[2])
        if before[1]:
            transformers_logging.enable_progress_bar()
        if before[3]:
            datasets.enable_progress_bars()
