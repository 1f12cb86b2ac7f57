"""One tool in a process of its own, by its name."""

import importlib
import os
from multiprocessing.connection import Connection

import torch

from estimation.tool import in_use
from estimation.worker import obey
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
    os.dup2(2, 1)  # what the libraries print is no result
    torch.set_num_threads(case.threads)
    module, cls = TOOLS[name]
    tool = getattr(importlib.import_module(f"predicting.{module}"), cls)
    ready = workload(case)
    connection.send({"baseline": in_use(case.device), "linears": len(ready.linears)})
    obey(tool(ready), connection)
