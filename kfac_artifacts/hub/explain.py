"""Every error of the Hub's client in one sentence that says what to do."""

from collections.abc import Callable, Iterator

import httpx2
from huggingface_hub import errors

from kfac_artifacts.errors import AccessError, ConnectionFailed, RegistryError
from kfac_artifacts.hub.address import HubAddress

RETRIED_STATUSES = {408, 429, 500, 502, 503, 504}
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
Explanation = Callable[[Exception, HubAddress, str], RegistryError]


def explain(
    error: Exception, address: HubAddress, endpoint: str
) -> RegistryError | None:
    """Say in one sentence what happened and what to do.

    Args:
        error: What the Hub's client raised.
        address: What it was asked for.
        endpoint: URL of the Hub.

    Returns:
        The error to raise instead, or None if this is none of the client's errors.
    """
    for kind, explanation in EXPLANATIONS:
        for cause in chain(error):
            if isinstance(cause, kind):
                return explanation(cause, address, endpoint)
    return _os_error(error, address, endpoint) if is_transient(error) else None


def is_transient(error: Exception) -> bool:
    """Whether trying again may help: an overloaded server, a broken transfer."""
    if isinstance(error, errors.LocalEntryNotFoundError):
        return False  # the client has tried again and again itself
    return any(_is_transient(cause) for cause in chain(error))


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or only that it cannot: the cache may do."""
    if isinstance(error, httpx2.ProxyError):
        return False
    kinds = (httpx2.TransportError, errors.OfflineModeIsEnabled)
    return isinstance(error, kinds) or is_transient(error)


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


def some(names: list[str]) -> str:
    """The first few of names that a server gave."""
    shown = ", ".join(plain(name) for name in names[:8]) or "nothing"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def plain(text: str) -> str:
    """One line of what a server said, without control characters."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:300]


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in RETRIED_STATUSES
    if isinstance(error, httpx2.TransportError):
        return not isinstance(error, httpx2.ConnectError | httpx2.ProxyError)
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def _offline(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"{address} is not in the cache, and HF_HUB_OFFLINE forbids to ask {endpoint}; "
        "unset it and try again"
    )


def _incomplete(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"the cached copy of {address} is incomplete, and {endpoint} cannot be "
        "reached; try again when it can"
    )


def _no_token(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return AccessError(f"{address} needs a token: {LOGIN}")


def _gated(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    where = f"{endpoint}/{address.repo}"
    first = "" if _status(error) == 403 else f"{LOGIN}, and "
    return AccessError(
        f"access to {address.repo} is restricted; {first}ask for it at {where}"
    )


def _no_repo(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    kind = AccessError if _status(error) in (401, 403) else RegistryError
    return kind(
        f"{endpoint} has no model repository {address.repo}, or it is private and not "
        f"yours; check the name, or {LOGIN}"
    )


def _no_revision(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return RegistryError(
        f"{address.repo} has no branch, tag or commit {address.revision!r}; look at "
        f"{endpoint}/{address.repo}/tree/main"
    )


def _no_entry(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return RegistryError(
        f"{address} has no such file; look at {endpoint}/{address.repo}/tree/main"
    )


def _http(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    assert isinstance(error, errors.HfHubHTTPError)  # noqa: S101 - by the table below
    status = error.response.status_code
    said = plain(error.server_message or "")
    kind, advice = RegistryError, "look at what it said"
    if status in ADVICE:
        kind, advice = ADVICE[status]
    elif status in RETRIED_STATUSES or status >= 500:
        kind, advice = ConnectionFailed, "wait a while and try again"
    detail = ", ".join(
        filter(
            None,
            (said, f"request {plain(error.request_id)}" if error.request_id else ""),
        )
    )
    return kind(
        f"{endpoint} answered {status} for {address}"
        + (f" ({detail})" if detail else "")
        + f"; {advice}"
    )


def _unreachable(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"{endpoint} cannot be reached ({plain(str(error))}); check the network, the "
        "proxy, and --endpoint or HF_ENDPOINT"
    )


def _dropped(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"the connection to {endpoint} broke off repeatedly ({plain(str(error))}); "
        "try again later"
    )


def _os_error(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    first_line = str(error).partition("\n")[0]
    return ConnectionFailed(
        f"transfer of {address} failed: {plain(first_line)}; try again"
    )


def _refused(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return RegistryError(f"the Hub's client refused {address}: {plain(str(error))}")


def _status(error: Exception) -> int:
    assert isinstance(error, errors.HfHubHTTPError)  # noqa: S101 - by the table below
    return error.response.status_code


ADVICE: dict[int, tuple[type[RegistryError], str]] = {
    401: (
        AccessError,
        f"the token was not accepted: {LOGIN} (HF_TOKEN goes before the login)",
    ),
    403: (
        AccessError,
        "the token may not do this: take one with the right to, or check the name",
    ),
    409: (RegistryError, "it is there already: choose another name or tag"),
    412: (RegistryError, "somebody else pushed at the same time: look, and push again"),
}

# The first kind that occurs in the chain of causes decides: the most telling first.
EXPLANATIONS: list[
    tuple[type[Exception] | tuple[type[Exception], ...], Explanation]
] = [
    (errors.IncompleteSnapshotError, _incomplete),
    (errors.OfflineModeIsEnabled, _offline),
    (errors.LocalTokenNotFoundError, _no_token),
    (errors.GatedRepoError, _gated),
    (errors.RepositoryNotFoundError, _no_repo),
    (errors.RevisionNotFoundError, _no_revision),
    (errors.RemoteEntryNotFoundError, _no_entry),
    (errors.HfHubHTTPError, _http),
    ((httpx2.ConnectError, httpx2.ProxyError, httpx2.ConnectTimeout), _unreachable),
    (httpx2.TransportError, _dropped),
    (errors.HFValidationError, _refused),
    ((errors.EntryNotFoundError, errors.FileMetadataError), _os_error),
    ((errors.XetDownloadError, ConnectionError), _os_error),
]
