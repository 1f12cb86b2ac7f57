"""Publishing and fetching artifacts, on the Hub or in a plain directory."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.hub.address import (
        COMMIT as COMMIT,
        HubAddress as HubAddress,
        PlainAddress as PlainAddress,
        parse as parse,
        resolve as resolve,
        tag_of as tag_of,
    )
    from kfac_artifacts.hub.answers import Entry as Entry, described_by as described_by
    from kfac_artifacts.hub.artifact_files import (
        CARD as CARD,
        ORIGIN as ORIGIN,
        Origin as Origin,
        digest_at as digest_at,
        digest_in as digest_in,
        read_card as read_card,
        receive as receive,
    )
    from kfac_artifacts.hub.card import (
        TAGS as TAGS,
        collection_metadata as collection_metadata,
        license_of as license_of,
    )
    from kfac_artifacts.hub.causes import (
        is_conflict as is_conflict,
        is_unreachable as is_unreachable,
    )
    from kfac_artifacts.hub.client import Client as Client
    from kfac_artifacts.hub.client_errors import (
        explain as explain,
        explain_search as explain_search,
    )
    from kfac_artifacts.hub.connection import Hub as Hub
    from kfac_artifacts.hub.directory import push_to_directory as push_to_directory
    from kfac_artifacts.hub.download import pull_from_hub as pull_from_hub
    from kfac_artifacts.hub.fetching import pull as pull
    from kfac_artifacts.hub.kept import kept_at as kept_at
    from kfac_artifacts.hub.kinds import (
        KINDS as KINDS,
        TASK_VECTOR as TASK_VECTOR,
        Kind as Kind,
        kind_among as kind_among,
        kind_at as kind_at,
    )
    from kfac_artifacts.hub.mark import is_untouched as is_untouched, marked as marked
    from kfac_artifacts.hub.output import client_output as client_output
    from kfac_artifacts.hub.package import Package as Package
    from kfac_artifacts.hub.patience import Patience as Patience
    from kfac_artifacts.hub.picture import (
        PICTURE as PICTURE,
        is_plain_picture as is_plain_picture,
    )
    from kfac_artifacts.hub.plain_files import read_plain as read_plain
    from kfac_artifacts.hub.publishing import (
        checked_package as checked_package,
        push as push,
    )
    from kfac_artifacts.hub.result import Pulled as Pulled, Pushed as Pushed
    from kfac_artifacts.hub.shipment import Shipment as Shipment

export_lazily(__name__)
