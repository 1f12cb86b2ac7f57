"""Many artifacts in one place, with an index and the running total of each kind."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.registry.adding import (
        Changed as Changed,
        Offer as Offer,
        add as add,
        compress_total as compress_total,
        remove as remove,
        withdraw as withdraw,
    )
    from kfac_artifacts.registry.checking import check as check
    from kfac_artifacts.registry.index import (
        Collection as Collection,
        Index as Index,
        Task as Task,
        Total as Total,
    )
    from kfac_artifacts.registry.lock import (
        LOCK as LOCK,
        check_lockable as check_lockable,
        pull_locked as pull_locked,
        write_lock as write_lock,
    )
    from kfac_artifacts.registry.opening import (
        open_registry as open_registry,
        read_registry as read_registry,
    )
    from kfac_artifacts.registry.places import State as State
    from kfac_artifacts.registry.search import Found as Found, search as search
    from kfac_artifacts.registry.selection import Selection as Selection
    from kfac_artifacts.registry.showing import current as current
    from kfac_artifacts.registry.static_page import (
        check_page_free as check_page_free,
        export_static as export_static,
    )
    from kfac_artifacts.registry.taking import Taken as Taken, take as take

export_lazily(__name__)
