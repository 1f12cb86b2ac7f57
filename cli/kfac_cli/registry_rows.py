"""What ``kfac registry list`` shows."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.registry import Index, Total


def rows_of(index: "Index") -> dict[str, Any]:
    """Describe a registry for a program."""
    return {
        name: {
            **each.kind.to_json(),
            "total": None if each.total is None else _total_row(each.total),
            "tasks": {
                task: {
                    "date": version.date,
                    "base_model": version.base,
                    **asdict(version.artifact),
                    "recipes": list(version.variants),
                    "versions": [v.artifact.digest for v in each.tasks[task].versions],
                }
                for task, version in each.current.items()
            },
        }
        for name, each in index.collections.items()
    }


def _total_row(total: "Total") -> dict[str, Any]:
    return {**asdict(total.entry), "recipes": list(total.variants)}


def print_index(index: "Index") -> None:
    """Describe a registry for people."""
    from kfac_artifacts.hub import tag_of

    for name, each in index.collections.items():
        kind = each.kind
        several = len(each.bases) > 1
        click.echo(f"{name}: {' or '.join(each.bases)}, {kind.estimator}")
        rows = [
            [
                task,
                v.artifact.examples,
                v.artifact.size,
                size(v.artifact.bytes),
                v.date[:10],
                v.artifact.license or "-",
                ", ".join(v.variants) or "-",
                tag_of(v.artifact.digest),
                *([v.base] if several else []),
            ]
            for task, v in each.current.items()
        ]
        header = ["task", "examples", "of", "size", "date", "licence", "compressed"]
        header += ["version", *(["base model"] if several else [])]
        print_table(header, rows)
        if each.total is not None:
            told, forms = each.total.entry, each.total.variants.items()
            also = "".join(f", {size(form.bytes)} as {name}" for name, form in forms)
            click.echo(f"total: {told.tasks} tasks, {size(told.bytes)}{also}\n")
