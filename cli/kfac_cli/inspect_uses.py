"""For what an artifact is fit, as ``kfac inspect`` says it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kfac_artifacts.format import Header

WORDS = {True: "yes", False: "no", None: "unknown"}
FOREIGN = "names of third parties are in it"


def as_json(header: "Header") -> dict[str, dict[str, Any]]:
    """Every use by name: whether it is fit (null if unknown), why, and what limits."""
    from kfac_artifacts.compress import judge_uses

    found = {use.name: asdict(use) for use in judge_uses(header)}
    for use in found.values():
        del use["name"]
    return found


def foreign() -> dict[str, dict[str, Any]]:
    """The same of what cannot be judged."""
    from kfac_artifacts.compress import USES

    unknown = {"fit": None, "reason": FOREIGN, "factor": None, "value": None}
    return {name: dict(unknown) for name in USES}


def show(header: "Header | None") -> None:
    """Print a line for each use; without a header all are unknown."""
    from kfac_artifacts.compress import USES

    found = foreign() if header is None else as_json(header)
    click.echo("\nfit for")
    width = max(len(title) for title, _, _ in USES.values())
    for name, use in found.items():
        at = "" if use["factor"] is None else f" ({use['factor']})"
        title, word = USES[name][0], WORDS[use["fit"]]
        line = f"  {title:<{width}}  {word}: {use['reason']}{at}"
        click.echo(line)
