"""Fetching an artifact, from the Hub or out of a plain directory; without torch."""

from pathlib import Path

from kfac_artifacts.hub.address import HubAddress, parse
from kfac_artifacts.hub.connection import Hub
from kfac_artifacts.hub.directory_pull import pull_from_directory
from kfac_artifacts.hub.download import pull_from_hub
from kfac_artifacts.hub.result import Pulled


def pull(
    source: str | Path,
    directory: str | Path,
    *,
    replace: bool = False,
    hub: Hub | None = None,
) -> Pulled:
    """Fetch an artifact and verify every byte of it.

    Args:
        source: ``hf://org/name[/path][@revision]``, or a directory with an artifact.
        directory: Where it goes; it appears whole or not at all.
        replace: Whether what this package wrote there may be replaced.
        hub: The Hub; by default the one of the environment.

    Returns:
        What was done, with the address pinned to what was found.
    """
    address = parse(str(source))
    if isinstance(address, HubAddress):
        return pull_from_hub(
            address, Path(directory), replace=replace, hub=hub or Hub()
        )
    return pull_from_directory(address, Path(directory), replace=replace)
