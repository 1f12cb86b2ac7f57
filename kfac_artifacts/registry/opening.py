"""Opening a registry, wherever it is."""

from pathlib import Path

from kfac_artifacts.errors import RegistryError
from kfac_artifacts.hub import Hub, HubAddress, resolve
from kfac_artifacts.registry.hub_registry import HubRegistry
from kfac_artifacts.registry.index import INDEX
from kfac_artifacts.registry.places import Registry, State
from kfac_artifacts.registry.plain_registry import PlainRegistry


def open_registry(
    place: str | Path, *, hub: Hub | None = None, private: bool = False
) -> Registry:
    """Open a registry, which need not be there yet.

    Args:
        place: ``hf://org/name[/path][@revision]``, ``org/name``, or a directory.
        hub: The Hub; by default the one of the environment.
        private: Whether to make a new repository private.

    Returns:
        The registry.
    """
    address = resolve(str(place))
    if isinstance(address, HubAddress):
        return HubRegistry(address, hub or Hub(), private=private)
    return PlainRegistry(address.directory)


def read_registry(
    place: str | Path, *, hub: Hub | None = None
) -> tuple[Registry, State]:
    """Open a registry that is there, and look at it.

    Args:
        place: As of :func:`open_registry`.
        hub: The Hub; by default the one of the environment.

    Returns:
        The registry, and what it is at this moment.

    Raises:
        RegistryError: If there is none.
    """
    registry = open_registry(place, hub=hub)
    state = registry.state()
    if not state.exists:
        raise RegistryError(
            f"there is no registry at {place} (no {INDEX}); `kfac registry add` "
            "makes one"
        )
    return registry, state
