"""Cases of section 11: what merging, taking out and joining give, or refuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Artifacts and what is done with them.

    A case ``shows`` rules by what comes out, or ``breaks`` one: its number, and which
    member or what else it is about.
    """

    operation: str
    of: Sequence[str]
    exclude: Sequence[str] = ()
    shows: str = ""
    breaks: str = ""
    weighting: str = "size"

    def to_json(self) -> dict[str, Any]:
        """Describe the case in the index."""
        told: dict[str, Any] = {"operation": self.operation, "of": [*self.of]}
        told["exclude"] = [*self.exclude]
        if self.weighting != "size":
            told["weighting"] = self.weighting
        if not self.breaks:
            return told | {"shows": self.shows.split()}
        number, _, reason = self.breaks.partition(" ")
        return told | {"cites": [number], "reason": reason}


TOTAL = ["total"]
ALLOWED = {
    "three-parts": ("merge", ["part-1", "part-2", "part-3"], [], "R11.2 R11.5 R11.7"),
    "parts-of-other-order": ("merge", ["part-3", "part-1"], [], "R11.5"),
    "total-and-part": ("merge", ["total", "another-task"], [], "R11.5 R11.7"),
    "twins": ("merge", ["alike-1", "part-2"], [], "R11.5"),
    "null-digests-alike": ("merge", ["without-digests"] * 2, [], "R11.5"),
    "mixed-storage": ("merge", ["part-1", "part-3-compressed"], [], "R11.2"),
    "compressed": ("merge", ["compressed-1", "compressed-3"], [], "R11.2"),
    "compressed-mixed": ("merge", ["compressed-1", "compressed-2"], [], "R11.2"),
    "compressed-permuted": (
        "merge",
        ["compressed-1", "compressed-permuted"],
        [],
        "R11.2",
    ),
    "gramian-terms": ("merge", ["gramian-terms-1", "gramian-terms-2"], [], "R11.2"),
    "eigen": ("merge", ["eigen-1", "eigen-2"], [], "eigen.6 eigen.7"),
    "inputs": ("merge", ["inputs-1", "inputs-2"], [], "inputs.2"),
    "diagonal": ("merge", ["diagonal-1", "diagonal-2"], [], "diagonal_block.3"),
    "positions-by-size": ("merge", ["counted-1", "counted-2"], [], "R11.23"),
    "positions-of-one": ("merge", ["counted-1", "not-counted"], [], "R11.23"),
    "out-one": ("exclude", TOTAL, ["part-3"], "R11.14"),
    "out-two": ("exclude", TOTAL, ["part-1", "part-3"], "R11.14"),
    "out-a-total": ("exclude", TOTAL, ["total-of-one-size"], "R11.14"),
    "out-reformatted": ("exclude", TOTAL, ["part-3-reformatted"], "R11.14"),
    "out-compressed": ("exclude", TOTAL, ["part-3-compressed"], "R11.14"),
    "join": ("join", ["module-1", "module-2"], [], ""),
    "join-uncovered": ("join", ["module-1-of-others", "module-2"], [], ""),
    "compress": ("compress", ["part-1"], [], "R11.15"),
    "compress-again": ("compress", ["part-3-compressed"], [], "R11.15"),
    "compress-a-total": ("compress", ["without-digests"], [], "R11.15"),
}
BY_POSITIONS = {
    "by-positions": ("merge", ["counted-1", "counted-2"], []),
    "by-positions-of-other-sizes": ("merge", ["counted-1", "counted-3"], []),
    "by-positions-totals": (
        "merge",
        ["total-by-positions", "another-by-positions"],
        [],
    ),
    "by-positions-total-and-part": ("merge", ["total-by-positions", "counted-3"], []),
    "out-by-positions": ("exclude", ["total-by-positions"], ["counted-2"]),
}
REFUSED = {
    "output-map": ("R11.1 output_map", "merge", ["part-1", "output-map-one"], []),
    "estimator": ("R11.1 estimator", "merge", ["part-1", "estimator-nearest"], []),
    "weights": ("R11.1 parameters", "merge", ["part-1", "other-values"], []),
    "covering": ("R11.1 parameters", "merge", ["part-1", "fewer-parameters"], []),
    "block-names": ("R11.1 names of blocks", "merge", ["maps", "maps-renamed"], []),
    "parameters-of-a-block": (
        "R11.1 parameters of a block",
        "merge",
        ["maps", "maps-swapped"],
        [],
    ),
    "layout": ("R11.1 layout of a block", "merge", ["rows", "columns"], []),
    "kind": ("R11.1 kind of a block", "merge", ["rows", "whole"], []),
    "part": ("R11.1 part of a block", "merge", ["slices", "slices-swapped"], []),
    "constant": (
        "R11.1 constant of a block",
        "merge",
        ["without-constant", "with-constant"],
        [],
    ),
    "several-terms": (
        "R11.3 several terms",
        "merge",
        ["several-terms-1", "several-terms-2"],
        [],
    ),
    "out-several-terms": (
        "R11.3 several terms",
        "exclude",
        ["several-terms-total"],
        ["several-terms-1"],
    ),
    "too-large": ("R11.4 size", "merge", ["part-2", "largest"], []),
    "twice": ("R11.10 counted twice", "merge", ["part-1", "part-1"], []),
    "part-of-a-total": ("R11.10 counted twice", "merge", ["total", "part-2"], []),
    "twice-reformatted": (
        "R11.10 counted twice",
        "merge",
        ["part-3", "part-3-reformatted"],
        [],
    ),
    "twice-compressed": (
        "R11.10 counted twice",
        "merge",
        ["part-3", "part-3-compressed"],
        [],
    ),
    "out-another": ("R11.11 not among the tasks", "exclude", TOTAL, ["another-task"]),
    "out-twice": (
        "R11.11 not among the tasks",
        "exclude",
        TOTAL,
        ["part-3", "part-3-compressed"],
    ),
    "out-all": (
        "R11.12 no task left",
        "exclude",
        ["total-of-one-size"],
        ["part-1", "part-2"],
    ),
    "out-of-eigen": (
        "eigen.8 eigen blocks",
        "exclude",
        ["eigen-1", "eigen-2"],
        ["eigen-2"],
    ),
    "weightings": (
        "R11.22 weighting",
        "merge",
        ["total-by-size", "another-by-positions"],
        [],
    ),
    "join-another-model": (
        "R11.16 base_model.id",
        "join",
        ["module-1", "module-of-another-model"],
        [],
    ),
    "join-another-output-map": (
        "R11.16 output_map",
        "join",
        ["module-1", "module-of-another-map"],
        [],
    ),
    "join-another-estimator": (
        "R11.16 estimator",
        "join",
        ["module-1", "module-of-another-estimator"],
        [],
    ),
    "join-other-data": (
        "R11.16 data",
        "join",
        ["module-1", "module-of-other-data"],
        [],
    ),
    "join-other-cotangents": (
        "R11.16 cotangents",
        "join",
        ["module-1", "module-of-other-cotangents"],
        [],
    ),
    "join-with-noise": (
        "R7.3.7 noise of its own",
        "join",
        ["module-1", "module-with-noise"],
        [],
    ),
    "join-of-several-tasks": (
        "R11.16 several tasks",
        "join",
        ["module-1-of-two-tasks", "module-2-of-two-tasks"],
        [],
    ),
    "join-a-parameter-twice": (
        "R11.17 parameter",
        "join",
        ["module-1", "module-of-the-parameter"],
        [],
    ),
    "join-a-block-twice": (
        "R11.17 block",
        "join",
        ["module-1", "module-of-the-block"],
        [],
    ),
    "join-a-factor-twice": (
        "R11.17 factor",
        "join",
        ["module-1", "module-of-the-factors"],
        [],
    ),
}
REFUSED_BY_POSITIONS = {
    "by-positions-without": (
        "R7.5.9 positions",
        "merge",
        ["counted-1", "not-counted"],
        [],
    ),
    "by-positions-a-total-by-size": (
        "R11.22 weighting",
        "merge",
        ["total-by-size", "counted-3"],
        [],
    ),
    "out-of-another-weighting": (
        "R11.22 weighting",
        "exclude",
        ["total-by-positions", "counted-3"],
        ["total-by-size"],
    ),
}


def cases() -> dict[str, Case]:
    """Every case by its name."""
    found = {name: Case(*told) for name, told in ALLOWED.items()}
    for name, (operation, of, exclude) in BY_POSITIONS.items():
        rules = "R11.21 R11.23"
        found[name] = Case(operation, of, exclude, rules, weighting="positions")
    for table, weighting in ((REFUSED, "size"), (REFUSED_BY_POSITIONS, "positions")):
        for name, (rule, *told) in table.items():
            found[name] = Case(*told, breaks=rule, weighting=weighting)
    return found
