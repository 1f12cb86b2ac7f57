"""What a dataset is called."""

from dataclasses import dataclass

from kfac_artifacts.errors import SourceError
from kfac_artifacts.names import WHAT_NAMES_ARE, is_name


@dataclass(frozen=True)
class Description:
    """What a dataset is called: its Hub id, or the name of a file or folder."""

    id: str
    config: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no manifest can hold, before anything is computed."""
        for what, name in (("data", self.id), ("a split", self.split)):
            if name is not None and not is_name(name):
                raise SourceError(f"{name!r} cannot name {what}: give {WHAT_NAMES_ARE}")
