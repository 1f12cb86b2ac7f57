"""One tool in a process of its own, by its name."""

from multiprocessing.connection import Connection

from estimation.worker import work
from predicting.models import Case, workload

TOOLS = {
    "forward": ("floor", "Forward"),
    "floor": ("floor", "Floor"),
    "floor_inputs": ("floor", "FloorOfInputs"),
    "ours": ("ours", "Ours"),
    "ours_inputs": ("ours", "OurInputs"),
    "kronfluence": ("kronfluence_", "Kronfluence"),
    "bergson": ("bergson_", "Bergson"),
}


def serve(name: str, case: Case, connection: Connection) -> None:
    """Set up a tool, tell its baseline, then obey commands until there are no more.

    Args:
        name: A key of ``TOOLS``.
        case: What to set up.
        connection: Where commands come from and answers go to.
    """
    work("predicting", TOOLS[name], workload, case, connection)
