"""Tables of texts and classes, read as they were written: no value is guessed."""

from kfac_artifacts.sources.tables.arrow import from_arrow
from kfac_artifacts.sources.tables.read import ENDINGS, Layout, ending, read_table
from kfac_artifacts.sources.tables.table import Table

__all__ = ["ENDINGS", "Layout", "Table", "ending", "from_arrow", "read_table"]
