"""How the client's requests are made: its patience bounded, its answers looked at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import get_session
from huggingface_hub.utils._http import hf_raise_for_status

from kfac_artifacts.hub.answers import check_headers
from kfac_artifacts.hub.causes import RETRIED_STATUSES

SILENCE = 120.0
"""Seconds for which the Hub may say nothing; much of the client would wait for ever."""
SHORT_ANSWER = 10**6


@contextmanager
def watched(answered: Callable[[], None]) -> Iterator[None]:
    """Look at every request and every answer while a call of the client runs.

    Args:
        answered: Called for every answer, whatever it is.

    Yields:
        Nothing.
    """

    def look_at(response: httpx2.Response) -> None:
        answered()
        _look_at(response)

    hooks = get_session().event_hooks
    hooks["request"].append(_bound)
    hooks["response"].append(look_at)
    try:
        yield
    finally:
        hooks["request"].remove(_bound)
        hooks["response"].remove(look_at)


def _bound(request: httpx2.Request) -> None:
    timeouts = request.extensions.get("timeout", {})
    bounded = {kind: limit or SILENCE for kind, limit in timeouts.items()}
    request.extensions = {**request.extensions, "timeout": bounded}


def _look_at(response: httpx2.Response) -> None:
    if response.status_code in RETRIED_STATUSES:
        # the client would try again itself, for as long as the server tells it to
        if int(response.headers.get("Content-Length") or 0) < SHORT_ANSWER:
            response.read()
        hf_raise_for_status(response)
    if response.request.method == "HEAD":
        check_headers(response.headers.items())
