"""Publishing and fetching artifacts, on the Hub or in a plain directory."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.hub.address import HubAddress, PlainAddress, parse
    from kfac_artifacts.hub.connection import Hub
    from kfac_artifacts.hub.fetching import pull
    from kfac_artifacts.hub.output import client_output
    from kfac_artifacts.hub.publishing import push
    from kfac_artifacts.hub.result import Pulled, Pushed

__all__ = [
    "Hub",
    "HubAddress",
    "PlainAddress",
    "Pulled",
    "Pushed",
    "client_output",
    "parse",
    "pull",
    "push",
]

export_lazily(
    __name__,
    {
        "Hub": "connection",
        "HubAddress": "address",
        "PlainAddress": "address",
        "Pulled": "result",
        "Pushed": "result",
        "client_output": "output",
        "parse": "address",
        "pull": "fetching",
        "push": "publishing",
    },
)
