"""Read a repository of the Hub, and say in one sentence why that fails."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kfac_artifacts.errors import AccessError, ConnectionFailed, SourceError


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
    """
    try:
        found = snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=list(patterns)
        )
    except GatedRepoError as error:
        raise AccessError(
            f"the {kind} {name!r} is gated: ask for access on its page of the Hub, "
            "then log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SourceError(
            f"{name!r} is neither here nor a {kind} of the Hub; if it is a private "
            "one, log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"the {kind} {name!r} has no revision {revision!r}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{name!r} is not here, and the Hub cannot be reached to look for a {kind} "
            "of that name"
        ) from error
    except HfHubHTTPError as error:
        raise ConnectionFailed(
            f"the {kind} {name!r}: the Hub failed: {error}"
        ) from error
    return Path(found)
