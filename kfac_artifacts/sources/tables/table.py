"""A table as it was read: the columns that may be used, and where its rows were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfac_artifacts.errors import listed


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a table.

    Attributes:
        name: Name of the file or dataset.
        names: Names of all columns in order, without spaces around them.
        columns: The values of those that may be used.
        numbers: Line or row of the file at which every row begins, from 1.
        unit: What is counted there: ``line``, ``row``, or ``image`` of a folder.
        blank: Number of blank lines that were skipped.
        notes: How the file was understood, where it could be understood otherwise.
        named: Whether the names are surely names, not cells of a file without header.
        headed: Whether the names are what the first row of a csv or tsv holds.
        types: Types that are declared in the file, by column.
        declared: Names of classes that are declared in the file, by column.
        images: Columns that are declared to hold images.
    """

    name: str
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    unit: str = "row"
    blank: int = 0
    notes: tuple[str, ...] = ()
    named: bool = True
    headed: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def account(
        self,
        columns: Sequence[str],
        label: str | None,
        used: int | None,
        classes: int | None = None,
    ) -> str:
        """Say how many rows were read, of which columns, and how many are used."""
        blank = f"{count(self.blank, 'blank line')} skipped"
        notes = [blank] * (self.blank > 0) + list(self.notes)
        of_files = self.unit == "image"  # a folder has no columns to speak of
        parts = [
            f"{self.name}: {count(len(self), 'image' if of_files else 'row')} read"
            + f" ({', '.join(notes)})" * bool(notes),
        ]
        if not of_files:
            named = " and ".join(map(repr, columns))
            parts.append(f"column{'s' * (len(columns) > 1)} {named}")
        if label is not None:
            found = "" if classes is None else f" ({count(classes, 'class')})"
            parts.append(f"labels of {label!r}{found}")
        if used is not None:
            parts.append(f"{used:,} used")
        return ", ".join(parts)

    def where(self, indices: Sequence[int]) -> str:
        """Say where some rows are: ``lines 2, 7 and 3 more``."""
        shown = listed([f"{self.numbers[i]:,}" for i in indices])
        return f"{self.unit}{'s' * (len(indices) > 1)} {shown}"

    def listing(self) -> str:
        """List the columns, or count them if that might show cells."""
        if not self.named:
            reason = (
                "the first row may be no header; if it is none, give --no-header, and "
                "a column by its number; if there are more columns, say what divides "
                "them (--delimiter)"
                if self.headed
                else "some come only once and may be data; every row is an object with "
                "the same keys"
            )
            return (
                f"there {'is' if len(self.names) == 1 else 'are'} {len(self.names)}, "
                f"whose name{'s are' if self.names[1:] else ' is'} not shown since "
                f"{reason}"
            )
        return f"columns are {listed(self.names, 20)}"


def count(number: int, what: str) -> str:
    """Count things: ``1 row``, ``1,204 rows``, ``2 classes``."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{plural * (number != 1)}"
