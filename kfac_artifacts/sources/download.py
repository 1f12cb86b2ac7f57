"""Read a repository of the Hub, and say in one sentence why that fails."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from kfac_artifacts.errors import AccessError, KfacError, SourceError
from kfac_artifacts.hub import Hub, HubAddress, Patience, explain, is_unreachable


def download(
    kind: str, name: str, revision: str | None, patterns: Sequence[str]
) -> Path:
    """Download some files of a repository, or find them in the cache.

    Args:
        kind: ``model`` or ``dataset``.
        name: Hub id.
        revision: Branch, tag or commit; None for ``main``.
        patterns: Which files.

    Returns:
        The directory of the snapshot; its name is the Hub's commit.

    Raises:
        SourceError: If there is no such repository, or no way to look for it.
        AccessError: If the Hub asks for more rights.
        ConnectionFailed: If the Hub answers with an error.
        KfacError: If the address or the token of the Hub is none.
    """
    hub = Hub()
    try:
        return _snapshot(hub, kind, name, revision, patterns)
    except KfacError:
        raise
    except Exception as error:
        told = _told(error, kind, name, revision) or explain(
            error, HubAddress(name, revision=revision), hub.url
        )
        if told is None:
            raise
        raise told from error


def _snapshot(
    hub: Hub, kind: str, name: str, revision: str | None, patterns: Sequence[str]
) -> Path:
    def once() -> Path:
        return Path(
            snapshot_download(
                name,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                endpoint=hub.url,
            )
        )

    validate_repo_id(name)
    patience = Patience(hub)
    found = patience.ask(once)
    if any(next(found.glob(pattern), None) for pattern in patterns):
        return found
    # the listing in the cache may be one that was altered on the way
    listing = found.parent.parent / "trees" / f"{found.name}.json"
    listing.unlink(missing_ok=True)
    return patience.ask(once)


def _told(
    error: Exception, kind: str, name: str, revision: str | None
) -> KfacError | None:
    """What is said otherwise than about artifacts."""
    if isinstance(error, GatedRepoError):
        return AccessError(
            f"the {kind} {name!r} is gated: ask for access on its page of the Hub, "
            "then log in with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return SourceError(
            f"{name!r} is neither here nor a {kind} of the Hub; if it is a private "
            "one, log in with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return SourceError(f"the {kind} {name!r} has no revision {revision!r}")
    if isinstance(error, LocalEntryNotFoundError) and is_unreachable(error):
        return SourceError(
            f"{name!r} is not here, and the Hub cannot be reached to look for a {kind} "
            "of that name"
        )
    return None
