"""Asking a Hub again, as long as that may help."""

import random
import time
from collections.abc import Callable
from logging import getLogger
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

from kfac_artifacts.hub.causes import chain, is_passing, understood
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.session import watched
from kfac_artifacts.hub.words import plain

logger = getLogger(__name__)
Result = TypeVar("Result")
LONGEST_WAIT = 60.0


class Patience:
    """Calls of the client that are repeated.

    Attributes:
        hub: The Hub, which says how often and how long to wait.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._answered = False

    def ask(self, call: Callable[[], Result]) -> Result:
        """Call until it succeeds, patience ends, or repeating cannot help.

        Args:
            call: Asks the client, and checks what is answered.

        Returns:
            What the call returns.

        Raises:
            GarbledAnswerError: If the last answer was not understood.
            Exception: What else the client raised last.
        """
        attempt = 0
        while True:
            try:
                with watched(self._note_answer):
                    return call()
            except Exception as error:
                known = understood(error)
                passing = is_passing(known, answered=self._answered)
                if attempt == self.hub.retries or not passing:
                    raise known from error.__cause__ if known is error else error
                self._pause(attempt, known)
                attempt += 1

    def _note_answer(self) -> None:
        self._answered = True

    def _pause(self, attempt: int, error: Exception) -> None:
        pause = max(self.hub.wait * 2**attempt, _asked_to_wait(error))
        pause = min(pause, LONGEST_WAIT) * random.uniform(1.0, 1.1)  # noqa: S311
        logger.info("%s; trying again in %.1f seconds", plain(str(error)), pause)
        time.sleep(pause)


def _asked_to_wait(error: Exception) -> float:
    for cause in chain(error):
        if isinstance(cause, HfHubHTTPError):
            seconds = cause.response.headers.get("Retry-After", "")
            usable = seconds.isascii() and seconds.isdecimal()
            return float(seconds[:9]) if usable else 0.0
    return 0.0
