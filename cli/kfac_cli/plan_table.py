"""One row for all blocks that are alike but for a number in their name."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.estimate import PlannedBlock

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole part of a name


def grouped(blocks: "Sequence[PlannedBlock]") -> list[list[object]]:
    """Put blocks that differ by a number in their name alone into one row each."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for planned in blocks:
        key = (NUMBER.sub("{}", planned.name), *_row(planned))
        groups.setdefault(key, []).append(planned.name)
    return [
        [_joint_name(names), kind, f"{len(names)} x", *rest]
        for (_, kind, *rest), names in groups.items()
    ]


def _in_short(structure: str) -> str:
    return "" if structure == "dense" else f" {structure.replace('_', '-')}"


def _row(planned: "PlannedBlock") -> tuple[object, ...]:
    factors = " ".join(
        f"{name.rsplit('.', 1)[-1]} {dim}"
        + ("*" if name in planned.shared else "")
        + _in_short(planned.structures[name].name)
        for name, dim in planned.dims.items()
    )
    positions = "?" if planned.positions is None else planned.positions
    each = size(planned.nbytes("symmetric-float32"))
    return planned.block.kind, factors, positions, each


def _joint_name(names: list[str]) -> str:
    columns = zip(*(map(int, NUMBER.findall(name)) for name in names), strict=True)
    spans = iter([_span(sorted(set(numbers))) for numbers in columns])
    return NUMBER.sub(lambda _: next(spans), names[0])


def _span(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
