"""The recipes that are compared, and where they come from."""

DENSE, NONE = "float32", "none"
"""The ends: nothing is compressed, and nothing is held back."""
BUDGET = "budget-"
"""Begins a budget: the largest size as a share of the bytes of dense matrices."""

PAPER = ("block-8", "svd-32", "svd-25%", "prune-30%", "prune-15%", "int8")
RECIPES = (
    "low-rank-16+int8",
    "low-rank-8+int8",
    "low-rank-32+int8",
    "budget-1.5%",
    "budget-0.5%",
    "diagonal+bfloat16",
    "low-rank-4+int8",
    "low-rank-64+int8",
    "block-8+int8",
    "bfloat16",
    *PAPER,
)
QUICK = ("low-rank-8+int8", "low-rank-16+int8", "low-rank-32+int8")
STEPPED = (DENSE, "int8", "block-8", "svd-25%", "low-rank-16+int8")
"""For these whole training steps are timed."""


def origin(recipe: str) -> str:
    """Say whose recipe it is: the paper's, ours, or an end's."""
    if recipe in {DENSE, NONE}:
        return "end"
    return "paper" if recipe in PAPER else "ours"


def budget(recipe: str) -> float | None:
    """Give the largest size of a budget as a share, or None if it is none."""
    if not recipe.startswith(BUDGET):
        return None
    return float(recipe.removeprefix(BUDGET).removesuffix("%")) / 100
