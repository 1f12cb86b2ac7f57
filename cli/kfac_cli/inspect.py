"""``kfac inspect``: what an artifact holds, from its headers, or a task vector."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console, inspect_outline, inspect_uses, inspect_vector
from kfac_cli.given import is_vector
from kfac_cli.options import json_option
from kfac_cli.parameters import DIRECTORY
from kfac_cli.tables import print_table
from kfac_cli.units import size

if TYPE_CHECKING:
    from kfac_artifacts.format import Header, Outline


@click.command("inspect")
@click.argument("artifact", type=DIRECTORY)
@json_option
def command(artifact: Path, as_json: bool) -> None:
    """Show what ARTIFACT holds; no tensor is read.

    It is said for what ARTIFACT is fit: as a penalty, to be inverted, for its null
    space, for its diagonal. What nobody measured is unknown; `kfac compress` does.

    ARTIFACT may be a task vector, too: its base, head, training and norms are shown.
    Of one that has names of third parties (org.example/name) it is said which, and
    everything else is shown.

    \b
    Example:
        kfac inspect tickets
        kfac inspect tickets --json | jq .modules
        kfac inspect tau-tickets
    """
    if is_vector(artifact):
        inspect_vector.show(artifact, as_json=as_json)
        return
    from kfac_artifacts.format import read_header, read_outline

    outline = read_outline(artifact)
    if outline is not None:
        inspect_outline.show(artifact, outline, overview(outline), as_json=as_json)
        return
    header = read_header(artifact)
    if as_json:
        details = overview(header)
        details["modules"] = rows(header)
        details["uses"] = inspect_uses.as_json(header)
        details["excluded"] = list(header.provenance.excluded)
        details["uncovered"] = dict(header.provenance.uncovered)
        console.print_json(details)
        return
    _print(artifact, header)


def overview(header: "Header | Outline") -> dict[str, Any]:
    """Summarise an artifact: what it is of, and how large."""
    from kfac_artifacts.artifact import task_names

    provenance = header.provenance
    names = task_names(provenance.sources)
    shapes = header.parameters
    return {
        "base_model": provenance.base.id,
        "revision": provenance.base.revision,
        "base_sha256": provenance.base.sha256,
        "also_for": [asdict(file) for file in provenance.base.derived],
        "output_map": provenance.output_map.name,
        "estimator": str(provenance.estimator),
        "tasks": provenance.tasks,
        "size": provenance.size,
        "weighting": provenance.weighting,
        "examples": sum(s.data.examples for s in provenance.sources),
        "sources": [
            {
                "task": name,
                "data": s.data.id,
                "split": s.data.split,
                "examples": s.data.examples,
                "size": s.data.size,
                "weight": s.data.size / provenance.size,
                "cotangents": s.cotangents.name,
                "draws": s.cotangents.draws,
                "seed": s.cotangents.seed,
                "digest": s.digest,
                "fingerprint": s.data.fingerprint,
                "privacy": None if s.privacy is None else asdict(s.privacy),
            }
            for name, s in zip(names, provenance.sources, strict=True)
        ],
        "modules": len(header.kinds),
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "bytes": header.nbytes,
        "digest": header.digest,
    }


def rows(header: "Header") -> list[dict[str, Any]]:
    """Describe every block; a shared factor counts where it is used first."""
    shapes, infos, seen = header.parameters, header.factors, set[str]()
    found = []
    for name, block in header.blocks.items():
        fresh = [f for f in dict.fromkeys(block.factors) if f not in seen]
        seen.update(fresh)
        error = header.provenance.merge_errors.get(name)
        losses = header.provenance.losses
        found.append(
            {
                "name": name,
                "kind": block.kind,
                "positions": block.positions,
                "parameters": {p: list(shapes[p]) for p in block.parameters},
                "factors": {
                    f: {
                        "dim": infos[f].dim,
                        "structure": infos[f].structure.name,
                        "configuration": infos[f].structure.configuration,
                        "storage": infos[f].storage.name,
                        "loss": None if f not in losses else losses[f].error,
                        "measures": None if f not in losses else asdict(losses[f]),
                    }
                    for f in block.factors
                },
                "shared": [f for f in block.factors if f not in fresh],
                "bytes": sum(infos[f].nbytes for f in fresh),
                "merge_error": None if error is None else error.relative,
            }
        )
    return found


def _print(path: Path, header: "Header") -> None:
    summary = overview(header)
    inspect_outline.print_tasks(path, summary)
    table, compressed = [], bool(header.provenance.losses)
    for row in rows(header):
        dims = " ".join(
            f"{f.rsplit('.', 1)[-1]} {info['dim']}"
            + ("*" if f in row["shared"] else "")
            + ("" if info["structure"] == "dense" else f" {kind(info)}")
            for f, info in row["factors"].items()
        )
        about = row["factors"].values()
        storage = next(iter(about))["storage"]
        lost = max((info["loss"] or 0.0 for info in about), default=0.0)
        line = [row["name"], row["kind"], dims, storage, row["bytes"]]
        table.append([*line, f"{lost:.3f}"] if compressed else line)
    click.echo()
    titles = ["module", "block", "factors", "storage", "bytes"]
    print_table([*titles, "loss"] if compressed else titles, table)
    click.echo(
        f"\n{summary['modules']} modules, {summary['parameters']:,} parameters, "
        f"{size(summary['bytes'])} (* is shared with a module above)"
    )
    inspect_uses.show(header)
    console.print_uncovered(header.provenance.uncovered)
    if header.provenance.excluded:
        click.echo(f"excluded on request: {len(header.provenance.excluded)}")


def kind(factor: Mapping[str, Any]) -> str:
    """A structure in short, with its rank or its number of blocks."""
    name, configuration = factor["structure"].replace("_", "-"), factor["configuration"]
    if "rank" in configuration:
        return f"{name}-{configuration['rank']}"
    if "blocks" in configuration:
        return f"{name}-{sum(count for count, _ in configuration['blocks'])}"
    return str(name)
