"""``kfac inspect`` of an artifact with names that only third parties know."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console, inspect_uses
from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.format import FactorInfo, ForeignFactor, Outline


def show(
    path: Path, outline: "Outline", summary: dict[str, Any], *, as_json: bool
) -> None:
    """Show what can be told, and say what is unknown."""
    names = _unknown(outline)
    if as_json:
        details = summary | {
            "modules": [_row(outline, name) for name in outline.kinds],
            "uses": inspect_uses.foreign(),
            "unknown": [{"what": w, "name": n, "in": p} for (w, n), p in names.items()],
            "excluded": list(outline.provenance.excluded),
            "uncovered": dict(outline.provenance.uncovered),
        }
        console.print_json(details)
        return
    print_tasks(path, summary)
    click.echo()
    rows = [_row(outline, name) for name in outline.kinds]
    table = [[r["name"], r["kind"], " ".join(r["parameters"] or "?")] for r in rows]
    print_table(["module", "block", "parameters"], table)
    click.echo(
        f"\n{summary['modules']} modules, {summary['parameters']:,} parameters, "
        f"{size(summary['bytes'])}"
    )
    for (what, name), places in names.items():
        where = f" ({listed_places(places)})" if places else ""
        click.echo(f"unknown {what}: {name}{where}")
    inspect_uses.show(None)
    click.echo(
        "So it can be looked at here, and neither decoded nor merged nor trained with."
    )


def print_tasks(path: Path, summary: Mapping[str, Any]) -> None:
    """Say what an artifact is of, and of which tasks."""
    click.echo(f"{path}: curvature of {summary['base_model']}, {summary['output_map']}")
    for file in summary["also_for"]:
        how = "" if file["how"] is None else f", {file['how']}"
        click.echo(f"  also for {file['name']}{how}: sha256 {file['sha256']}")
    for source in summary["sources"]:
        draws = f" x {source['draws']}" if source["draws"] else ""
        click.echo(
            f"  {source['task']}: {source['examples']} of {source['size']} examples, "
            f"{source['cotangents']}{draws}, weight {source['weight']:.3f}"
        )


def listed_places(places: list[str]) -> str:
    """The first places where a name stands."""
    from kfac_artifacts.errors import listed

    return listed(places, 4)


def _unknown(outline: "Outline") -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for unknown in outline.unknown:
        places = found.setdefault((unknown.what, unknown.name), [])
        places += [] if unknown.where is None else [unknown.where]
    return found


def _row(outline: "Outline", name: str) -> dict[str, Any]:
    block, shapes = outline.blocks.get(name), outline.parameters
    row: dict[str, Any] = {"name": name, "kind": outline.kinds[name]}
    if block is None:
        return row | {"parameters": None, "factors": None}
    return row | {
        "parameters": {p: list(shapes[p]) for p in block.parameters},
        "factors": {f: _factor(outline.factors[f]) for f in block.factors},
    }


def _factor(info: "FactorInfo | ForeignFactor") -> dict[str, Any]:
    return {
        "dim": info.dim,
        "structure": info.structure.name,
        "configuration": dict(info.structure.configuration),
        "storage": info.storage.name,
    }
