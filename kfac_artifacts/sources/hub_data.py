"""Datasets of the Hub, read by the ``datasets`` library."""

from collections.abc import Callable
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.download import download
from kfac_artifacts.sources.silence_libraries import quiet
from kfac_artifacts.sources.tables import Table, from_arrow


def read_hub(
    name: str, config: str | None, split: str | None, wanted: Callable[[str], bool]
) -> tuple[Table, str]:
    """Read some columns of a dataset of the Hub.

    Args:
        name: Its id.
        config: Its configuration, if it has several.
        split: The split; None for ``train``, or the only one.
        wanted: Which columns may be used, by name.

    Returns:
        The table and the split.

    Raises:
        SourceError: If there is no such dataset or split.
    """
    # load_dataset would try for half a minute before it says that nothing is there
    download("dataset", name, None, ["README.md"])
    loaded = _load(name, config)
    splits = list(loaded)
    chosen = split or ("train" if "train" in splits else splits[0])
    if chosen not in splits or (split is None and chosen != "train" and splits[1:]):
        raise SourceError(
            f"{name} has no split {split or 'train'!r}; choose one of "
            f"{', '.join(splits)} (--split)"
        )
    rows = loaded[chosen]
    content = rows.with_format("arrow")[:]
    schema = rows.features.arrow_schema
    return from_arrow(name, schema, content, len(rows), wanted), chosen


def _load(name: str, config: str | None) -> Any:
    try:
        with quiet():
            return datasets.load_dataset(name, config)
    except (OSError, ValueError, DatasetsError) as error:
        if "corresponds to no data" in str(error):
            raise SourceError(f"{name} is empty") from error
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise SourceError(f"{name} cannot be read: {reason}") from error
