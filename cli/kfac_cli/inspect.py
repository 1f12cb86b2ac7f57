"""``kfac inspect``: what an artifact holds, from its headers, or a task vector."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console, inspect_vector
from kfac_cli.options import DIRECTORY, json_option

if TYPE_CHECKING:
    from kfac_artifacts.artifact import Artifact


@click.command("inspect")
@click.argument("artifact", type=DIRECTORY)
@json_option
def command(artifact: Path, as_json: bool) -> None:
    """Show what ARTIFACT holds; no tensor is read.

    ARTIFACT may be a task vector, too: its base, head, training and norms are shown.

    \b
    Example:
        kfac inspect tickets
        kfac inspect tickets --json | jq .modules
        kfac inspect tau-tickets
    """
    if (artifact / inspect_vector.MANIFEST).is_file():
        inspect_vector.show(artifact, as_json=as_json)
        return
    from kfac_artifacts.format import open_artifact

    opened = open_artifact(artifact)
    if as_json:
        details = overview(opened)
        details["modules"] = rows(opened)
        details["excluded"] = list(opened.provenance.excluded)
        details["uncovered"] = dict(opened.provenance.uncovered)
        console.print_json(details)
        return
    _print(artifact, opened)


def overview(artifact: "Artifact") -> dict[str, Any]:
    """Summarise an artifact: what it is of, and how large."""
    from kfac_artifacts.artifact import task_names

    provenance = artifact.provenance
    names = task_names(provenance.sources)
    shapes = artifact.parameters
    return {
        "base_model": provenance.base.id,
        "revision": provenance.base.revision,
        "base_sha256": provenance.base.sha256,
        "output_map": provenance.output_map.name,
        "estimator": str(provenance.estimator),
        "tasks": provenance.tasks,
        "size": provenance.size,
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
            }
            for name, s in zip(names, provenance.sources, strict=True)
        ],
        "modules": len(artifact.blocks),
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "bytes": sum(row["bytes"] for row in rows(artifact)),
        "digest": artifact.digest,
    }


def rows(artifact: "Artifact") -> list[dict[str, Any]]:
    """Describe every block; a shared factor counts where it is used first."""
    from kfac_artifacts.format import StoredFactors

    stored = artifact.factors
    if not isinstance(stored, StoredFactors):
        raise TypeError("only an artifact on disk has sizes")
    shapes, seen = artifact.parameters, set[str]()
    found = []
    for name, block in artifact.blocks.items():
        fresh = [f for f in dict.fromkeys(block.factors) if f not in seen]
        seen.update(fresh)
        error = artifact.provenance.merge_errors.get(name)
        losses = artifact.provenance.losses
        found.append(
            {
                "name": name,
                "kind": block.kind,
                "parameters": {p: list(shapes[p]) for p in block.parameters},
                "factors": {
                    f: {
                        "dim": stored.infos[f].dim,
                        "structure": stored.infos[f].structure.name,
                        "configuration": stored.infos[f].structure.configuration,
                        "storage": stored.infos[f].storage.name,
                        "loss": None if f not in losses else losses[f].error,
                    }
                    for f in block.factors
                },
                "shared": [f for f in block.factors if f not in fresh],
                "bytes": sum(stored.infos[f].nbytes for f in fresh),
                "merge_error": None if error is None else error.relative,
            }
        )
    return found


def _print(path: Path, artifact: "Artifact") -> None:
    summary = overview(artifact)
    click.echo(f"{path}: curvature of {summary['base_model']}, {summary['output_map']}")
    for source in summary["sources"]:
        draws = f" x {source['draws']}" if source["draws"] else ""
        click.echo(
            f"  {source['task']}: {source['examples']} of {source['size']} examples, "
            f"{source['cotangents']}{draws}, weight {source['weight']:.3f}"
        )
    table, compressed = [], bool(artifact.provenance.losses)
    for row in rows(artifact):
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
    header = ["module", "block", "factors", "storage", "bytes"]
    console.print_table([*header, "loss"] if compressed else header, table)
    click.echo(
        f"\n{summary['modules']} modules, {summary['parameters']:,} parameters, "
        f"{console.size(summary['bytes'])} (* is shared with a module above)"
    )
    console.print_uncovered(artifact.provenance.uncovered)
    if artifact.provenance.excluded:
        click.echo(f"excluded on request: {len(artifact.provenance.excluded)}")


def kind(factor: Mapping[str, Any]) -> str:
    """A structure in short, with its rank or its number of blocks."""
    name, configuration = factor["structure"].replace("_", "-"), factor["configuration"]
    if "rank" in configuration:
        return f"{name}-{configuration['rank']}"
    if "blocks" in configuration:
        return f"{name}-{sum(count for count, _ in configuration['blocks'])}"
    return str(name)
