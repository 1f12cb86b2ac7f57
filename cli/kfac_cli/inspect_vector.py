"""``kfac inspect`` of a task vector: its base, head, training and norms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_artifacts.errors import listed
from kfac_cli import console
from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.task_vector import TaskVector

MOST_CLASSES, MOST_LAYERS = 8, 8


def show(path: Path, *, as_json: bool) -> None:
    """Print what a task vector holds; its numbers are read for their norms."""
    from kfac_artifacts.task_vector import TaskVector

    vector = TaskVector.load(path)
    summary = overview(vector)
    if as_json:
        console.print_json(summary)
    else:
        _print(path, summary)


def overview(vector: "TaskVector") -> dict[str, Any]:
    """Summarise a task vector."""
    from kfac_artifacts.task_vector import head_info

    head, output_map = vector.head, vector.output_map
    modules = rows(vector)
    return {
        "base_model": vector.base.id,
        "revision": vector.base.revision,
        "base_sha256": vector.base.sha256,
        "sha256": vector.sha256,
        "output_map": None if output_map is None else output_map.name,
        "head": None if head is None else head_info(head).to_json(),
        "settings": dict(vector.settings),
        "metrics": dict(vector.metrics),
        "tensors": len(vector.tensors),
        "parameters": sum(row["parameters"] for row in modules),
        "bytes": 4 * sum(row["parameters"] for row in modules),
        "norm": sum(row["norm"] ** 2 for row in modules) ** 0.5,
        "modules": modules,
    }


def rows(vector: "TaskVector") -> list[dict[str, Any]]:
    """Add up the changes module by module."""
    modules: dict[str, list[str]] = {}
    for name in sorted(vector.tensors):
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    found = []
    for module, names in modules.items():
        tensors = [vector.tensors[name] for name in names]
        squares = sum(float(t.double().square().sum()) for t in tensors)
        largest = [float(t.abs().max()) for t in tensors if t.numel()]
        found.append(
            {
                "name": module,
                "tensors": {n: [*vector.tensors[n].shape] for n in names},
                "parameters": sum(t.numel() for t in tensors),
                "norm": squares**0.5,
                "largest": max(largest, default=0.0),
            }
        )
    return found


def _print(path: Path, summary: Mapping[str, Any]) -> None:
    revision = f" at {summary['revision']}" if summary["revision"] else ""
    click.echo(f"{path}: a task vector of {summary['base_model']}{revision}")
    click.echo(f"output map: {summary['output_map'] or 'not recorded'}")
    click.echo(f"head: {_head(summary['head'])}")
    for title in ("settings", "metrics"):
        for name, value in summary[title].items():
            click.echo(f"{title}: {json.dumps(name)} {json.dumps(value)}")
    click.echo()
    table = [
        [
            row["name"] or "(top)",
            " ".join(name.rpartition(".")[2] for name in row["tensors"]),
            row["parameters"],
            float(f"{row['norm']:.4g}"),
            float(f"{row['largest']:.4g}"),
        ]
        for row in summary["modules"]
    ]
    print_table(["module", "tensors", "parameters", "norm", "largest"], table)
    click.echo(
        f"\n{summary['tensors']} tensors, {summary['parameters']:,} parameters, "
        f"{size(summary['bytes'])}, norm {summary['norm']:.4g}"
    )


def _head(head: Mapping[str, Any] | None) -> str:
    if head is None:
        return "none; kfac evaluate makes one"
    classes, scale = head["classes"], head.get("logit_scale")
    layers = [layer["kind"] for layer in head.get("layers", ())]
    how = listed(layers, MOST_LAYERS) if layers else "a linear layer"
    if scale is not None:
        how = f"logit scale {scale:.4g}"
    return (
        f"{len(classes)} classes, {head['dim']} outputs, {how}: "
        f"{listed(classes, MOST_CLASSES)}"
    )
