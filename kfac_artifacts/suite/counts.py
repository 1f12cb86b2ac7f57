"""Right answers that a suite keeps, so that arms and ways to merge share them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.evaluate import Counted, Counts
from kfac_artifacts.suite.store import Store


@dataclass(frozen=True)
class StoredCounts(Counts):
    """Keeps counts under all that decides them.

    What the pretrained model answers does not depend on the arm, and what a task vector
    does by itself not on how it is merged; at α = 1 and at a chosen one the data are
    the same.

    Attributes:
        store: Where they are kept.
        network: What decides f at θ0.
        tasks: What decides the data, the head and the task vector of every task, by
            ``reported``, ``validation``, ``head`` and ``vector``.
        merged: What decides what they are merged to.
    """

    store: Store
    network: Json
    tasks: Sequence[Mapping[str, Json]]
    merged: Json

    @override
    def find(self, counted: Counted) -> Mapping[float, int]:
        return self.store.counts(self._about(counted))

    @override
    def keep(self, counted: Counted, right: Mapping[float, int]) -> None:
        self.store.keep_counts(self._about(counted), right)

    def _about(self, counted: Counted) -> dict[str, Json]:
        task = self.tasks[counted.task]
        vectors: dict[str, Any] = {
            "none": None,
            "own": task["vector"],
            "merged": self.merged,
        }
        return {
            "network": self.network,
            "data": task["validation" if counted.validation else "reported"],
            "head": task["head"],
            "mode": counted.mode,
            counted.vector: vectors[counted.vector],
        }
