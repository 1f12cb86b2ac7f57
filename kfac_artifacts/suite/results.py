"""What a suite found, over its seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from kfac_artifacts.artifact import Json

MEASURES = ("absolute", "normalised", "individual")


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: Their mean.
        deviation: Standard deviation of a single one; None of one seed.
        values: One by one.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take the mean and the deviation."""
        spread = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), spread, tuple(values))


@dataclass(frozen=True)
class Row:
    """An arm with one way to merge, in one mode.

    Attributes:
        arm: Name of the arm.
        merging: How its task vectors were merged.
        mode: ``linear`` or ``plain``.
        chosen: Whether α was chosen on validation data; else it is 1.
        rate: The learning rate that was chosen on validation data.
        weight: The weight λ that was; None is what is usual.
        alphas: α of every seed.
        scores: Of the test data, by measure: ``absolute`` is the mean accuracy over
            tasks of the merged model, ``normalised`` the mean of the tasks' ratios to
            ``individual``, the accuracy with the own task vector.
        tasks: Absolute accuracy by task.
        pretrained: Mean accuracy of the pretrained model over those tasks.
    """

    arm: str
    merging: str
    mode: str
    chosen: bool
    rate: float
    weight: float | None
    alphas: tuple[float, ...]
    scores: dict[str, Spread]
    tasks: dict[str, Spread]
    pretrained: float


@dataclass(frozen=True)
class SuiteResults:
    """All rows of a suite.

    Attributes:
        suite: The declaration.
        pretrained: Mean accuracy of the pretrained model over the tasks; where no arm
            has all, over those of the last one of the arms that have most.
        rows: The rows, in the order of the arms.
        searches: Of every arm what was tried: ``rate``, ``weight``, ``merging`` and,
            on the validation data, ``accuracy`` at α = 1, and the ``best`` with its
            ``alpha``; by these it was chosen.
        versions: Of the packages.
        seconds: Of this run; what was kept from an earlier one takes none.
    """

    suite: dict[str, Json]
    pretrained: float
    rows: tuple[Row, ...]
    searches: dict[str, list[dict[str, Json]]]
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def name_of(self, row: Row) -> str:
        """Name the arm of a row, and of how many tasks it is where not of all."""
        tasks: Any = self.suite["tasks"]
        some = len(row.tasks) < len(tasks)
        return row.arm + f" ({len(row.tasks)} tasks)" * some

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON."""
        return asdict(self)


def rows_of(
    arm: str,
    merging: str,
    choice: tuple[float, float | None],
    found: Sequence[Any],
    *,
    chosen: bool,
) -> list[Row]:
    """Make the rows of an arm and a way to merge, one for each mode.

    Args:
        arm: Name of the arm.
        merging: Name of the way to merge.
        choice: Rate and weight.
        found: What was measured, by seed; as of ``Evaluation.to_json``.
        chosen: Whether α was chosen.

    Returns:
        The rows.
    """
    rows = []
    for mode in found[0]["modes"]:
        scores = [each["modes"][mode] for each in found]
        normalised = [s["normalised"][0] for s in scores]
        measures = {
            "absolute": [s["absolute"][0] for s in scores],
            "normalised": [0.0 if n is None else n for n in normalised],
            "individual": [s["individual"] for s in scores],
        }
        tasks = {
            task: Spread.of([s["tasks"][task]["merged"][0] for s in scores])
            for task in scores[0]["tasks"]
        }
        rows.append(
            Row(
                arm=arm,
                merging=merging,
                mode=mode,
                chosen=chosen,
                rate=choice[0],
                weight=choice[1],
                alphas=tuple(s["alphas"][0] for s in scores),
                scores={name: Spread.of(v) for name, v in measures.items()},
                tasks=tasks,
                pretrained=scores[0]["pretrained"],
            )
        )
    return rows
