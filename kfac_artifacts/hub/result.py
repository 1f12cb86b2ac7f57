"""What pushing and pulling report."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        reference: Address pinned to what was pushed; `pull` takes it.
        digest: The artifact's digest.
        size: Size of the artifact in bytes.
        tag: Tag under which it was pushed; None if it could not be set.
        changed: False if the destination was up to date already.
        card_kept: Whether a card edited at the destination was left as it is.
        untagged: Why there is no tag, or None.
        directory: The local directory that was written, or None if it is on the Hub.
        replaced: Tag of the artifact that stood in that directory before, if any.
    """

    reference: str
    digest: str
    size: int
    tag: str | None
    changed: bool
    card_kept: bool
    untagged: str | None = None
    directory: Path | None = None
    replaced: str | None = None


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        directory: Where the artifact stands now.
        reference: Address pinned to what was pulled.
        digest: The artifact's digest.
        size: Size of the artifact in bytes.
        stale: Whether the Hub did not answer, so that a branch or tag means what it
            meant when it was last asked for.
    """

    directory: Path
    reference: str
    digest: str
    size: int
    stale: bool = False
