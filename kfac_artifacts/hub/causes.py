"""What went wrong, by its causes: whether it passes, and whether it was understood."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import errors

from kfac_artifacts.errors import KfacError
from kfac_artifacts.hub.words import plain

RETRIED_STATUSES = {408, 429, 500, 502, 503, 504}


class GarbledAnswerError(Exception):
    """An answer that is not what the Hub answers; somebody else may have given it."""


PASSING = (
    GarbledAnswerError,
    httpx2.RequestError,
    errors.FileMetadataError,
    errors.XetDownloadError,
    ConnectionError,
    TimeoutError,
)
UNDERSTOOD = (
    *PASSING,
    OSError,
    MemoryError,
    KfacError,
)


def is_passing(error: Exception, *, answered: bool) -> bool:
    """Tell whether trying again may help: an overloaded server, a broken transfer.

    Args:
        error: What the client raised.
        answered: Whether the Hub has answered before, so that it can be reached.

    Returns:
        False if the first cause that decides it stays as it is.
    """
    for cause in chain(error):
        decided = _passes(cause, answered)
        if decided is not None:
            return decided
    return False


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or only that it cannot: the cache may do."""
    offline = any(isinstance(c, errors.OfflineModeIsEnabled) for c in chain(error))
    return offline or is_passing(error, answered=True)


def is_conflict(error: Exception) -> bool:
    """Whether a commit was refused because another one came first."""
    return any(
        isinstance(c, errors.HfHubHTTPError) and status_of(c) in (409, 412)
        for c in chain(error)
    )


def understood(error: Exception) -> Exception:
    """Tell the client's own errors from those of reading what it did not expect.

    Args:
        error: Anything that a call of the client raised.

    Returns:
        The error itself, or that the answer was not understood.
    """
    if any(isinstance(cause, UNDERSTOOD) for cause in chain(error)):
        return error
    return GarbledAnswerError(f"{type(error).__name__}: {plain(str(error))}")


def lacks_xet(error: Exception) -> bool:
    """Whether a Hub has only LFS storage, and the client tried Xet on it."""
    return isinstance(error, OSError) and any(
        f"xet-{kind}-token" in str(error) for kind in ("write", "read")
    )


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def is_of_storage(error: errors.HfHubHTTPError) -> bool:
    """Whether a signed link to the storage was refused: the next link may be good."""
    path = error.response.request.url.path
    return not any(part in path for part in ("/api/", "/resolve/", ".git/"))


def status_of(error: BaseException) -> int:
    """The status that the Hub answered with."""
    assert isinstance(error, errors.HfHubHTTPError)  # noqa: S101 - by the table below
    return int(error.response.status_code)


def tells_of_loss(error: errors.HfHubHTTPError) -> bool:
    """Whether an upload is said not to have arrived: it can be sent again."""
    path = error.response.request.url.path
    if path.endswith("/verify"):
        return status_of(error) not in (401, 403)
    lost = "/commit/" in path and status_of(error) == 400
    return lost and "lfs" in (error.server_message or "").lower()


def _passes(error: BaseException, answered: bool) -> bool | None:
    if isinstance(error, errors.HfHubHTTPError):
        retried = status_of(error) in RETRIED_STATUSES
        return retried or is_of_storage(error) or tells_of_loss(error)
    if isinstance(error, httpx2.ProxyError | errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, httpx2.ConnectError):
        return answered
    if isinstance(error, errors.LocalEntryNotFoundError):
        return None  # its cause is what matters
    if isinstance(error, PASSING):
        return True
    unnamed = isinstance(error, OSError) and error.errno is None
    return (unnamed and "Consistency check failed" in str(error)) or None
