"""Publishing and fetching artifacts, on the Hub or in a plain directory."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.hub.address import (
        HubAddress as HubAddress,
        PlainAddress as PlainAddress,
        parse as parse,
    )
    from kfac_artifacts.hub.causes import is_unreachable as is_unreachable
    from kfac_artifacts.hub.client_errors import explain as explain
    from kfac_artifacts.hub.connection import Hub as Hub
    from kfac_artifacts.hub.fetching import pull as pull
    from kfac_artifacts.hub.output import client_output as client_output
    from kfac_artifacts.hub.patience import Patience as Patience
    from kfac_artifacts.hub.publishing import push as push
    from kfac_artifacts.hub.result import Pulled as Pulled, Pushed as Pushed

export_lazily(__name__)
