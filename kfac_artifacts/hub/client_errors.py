"""Every error of the Hub's client in one sentence that says what to do."""

from collections.abc import Callable

import httpx2
from huggingface_hub import constants, errors

from kfac_artifacts.errors import AccessError, ConnectionFailed, RegistryError
from kfac_artifacts.hub.address import HubAddress
from kfac_artifacts.hub.causes import (
    RETRIED_STATUSES,
    GarbledAnswerError,
    chain,
    is_of_storage,
    status_of,
    tells_of_loss,
)
from kfac_artifacts.hub.words import plain
from kfac_artifacts.places import FULL

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
NO_SEARCH = {401, 403, 404, 405, 501}
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
    if isinstance(error, OSError) and error.errno is not None:
        return _local(error, address, endpoint)
    return _os_error(error, address, endpoint) if isinstance(error, OSError) else None


def explain_search(error: errors.HfHubHTTPError, endpoint: str) -> RegistryError | None:
    """Say that a server has no search: mirrors take the request for a repository's.

    Args:
        error: What the Hub's client raised when it searched.
        endpoint: URL of the Hub.

    Returns:
        The error to raise instead, or None if the search itself failed, or the token.
    """
    status, said = status_of(error), plain(error.server_message or "")
    if status not in NO_SEARCH or "credentials" in said.lower():
        return None
    kind = AccessError if status in {401, 403} else RegistryError
    asked = plain(str(error.response.request.url.copy_with(query=None)))
    return kind(
        f"{endpoint} offers no search, as many mirrors: it answered {status} to {asked}"
        + (f" ({said})" if said else "")
        + "; name a repository or a directory, `kfac search hf://org/name`, or another "
        "server with --endpoint or HF_ENDPOINT"
    )


def _offline(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"HF_HUB_OFFLINE forbids to ask {endpoint} for {address}; unset it and try "
        "again"
    )


def _no_token(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return AccessError(f"{address} needs a token: {LOGIN}")


def _gated(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    where = f"{endpoint}/{address.repo}"
    first = "" if status_of(error) == 403 else f"{LOGIN}, and "
    return AccessError(
        f"access to {address.repo} is restricted; {first}ask for it at {where}"
    )


def _no_repo(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    kind = AccessError if status_of(error) in (401, 403) else RegistryError
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
    status = status_of(error)
    said = plain(error.server_message or "")
    kind, advice = RegistryError, "look at what it said"
    if status in ADVICE:
        kind, advice = ADVICE[status]
    if status in RETRIED_STATUSES or status >= 500:
        kind, advice = ConnectionFailed, "wait a while and try again"
    elif tells_of_loss(error):
        kind, advice = ConnectionFailed, "the upload did not arrive whole: try again"
    elif is_of_storage(error):
        kind, advice = ConnectionFailed, "check this machine's clock and try again"
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
        "proxy, the certificates, and --endpoint or HF_ENDPOINT"
    )


def _dropped(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"the connection to {endpoint} broke off repeatedly ({plain(str(error))}); "
        "try again later"
    )


def _garbled(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return ConnectionFailed(
        f"{endpoint} gave an answer about {address} that cannot be read "
        f"({plain(str(error))}); check --endpoint or HF_ENDPOINT, and whether a proxy "
        "or the login page of a network answers in its place"
    )


def _local(error: OSError, address: HubAddress, endpoint: str) -> RegistryError:
    # what is written to a full disk names no file; only downloads are written
    where = error.filename or (constants.HF_HUB_CACHE if error.errno in FULL else None)
    if not where:
        return ConnectionFailed(
            f"{endpoint} cannot be asked ({error.strerror}); check the certificates "
            "(SSL_CERT_FILE, SSL_CERT_DIR) and the disk"
        )
    return RegistryError(
        f"{where}: {error.strerror}; the cache of downloads, "
        f"{constants.HF_HUB_CACHE} unless another was named, must be a directory "
        "that can be written and has room (HF_HOME moves it)"
    )


def _os_error(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    first_line = str(error).partition("\n")[0]
    return ConnectionFailed(
        f"transfer of {address} failed: {plain(first_line)}; try again"
    )


def _refused(error: Exception, address: HubAddress, endpoint: str) -> RegistryError:
    return RegistryError(f"the Hub's client refused {address}: {plain(str(error))}")


ADVICE: dict[int, tuple[type[RegistryError], str]] = {
    401: (
        AccessError,
        f"the token was not accepted: {LOGIN} (HF_TOKEN goes before the login)",
    ),
    403: (
        AccessError,
        "the token may not do this: take one with the right to, or check the name",
    ),
    405: (
        RegistryError,
        "it does not take this, as a mirror that is only read from: name the Hub "
        "itself with --endpoint or HF_ENDPOINT",
    ),
    409: (RegistryError, "it is there already: choose another name or tag"),
    412: (RegistryError, "somebody else pushed at the same time: look, and push again"),
}

# The first kind that occurs in the chain of causes decides: the most telling first.
EXPLANATIONS: list[
    tuple[type[Exception] | tuple[type[Exception], ...], Explanation]
] = [
    (errors.OfflineModeIsEnabled, _offline),
    (errors.LocalTokenNotFoundError, _no_token),
    (errors.GatedRepoError, _gated),
    (errors.RepositoryNotFoundError, _no_repo),
    (errors.RevisionNotFoundError, _no_revision),
    (errors.RemoteEntryNotFoundError, _no_entry),
    (errors.HfHubHTTPError, _http),
    ((httpx2.ConnectError, httpx2.ProxyError, httpx2.ConnectTimeout), _unreachable),
    (GarbledAnswerError, _garbled),
    (httpx2.RequestError, _dropped),
    (errors.HFValidationError, _refused),
    ((errors.EntryNotFoundError, errors.FileMetadataError), _os_error),
    ((errors.XetDownloadError, ConnectionError), _os_error),
]
