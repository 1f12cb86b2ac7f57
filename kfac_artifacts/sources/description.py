"""What a dataset is called."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """What a dataset is called: its Hub id, or the name of a file or folder."""

    id: str
    config: str | None = None
    split: str | None = None
