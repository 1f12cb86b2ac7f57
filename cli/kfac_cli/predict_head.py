"""Whose head predictions are made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.errors import listed
from kfac_cli.given import is_vector

if TYPE_CHECKING:
    from kfac_artifacts.artifact import NamedConfig
    from kfac_artifacts.network import Network
    from kfac_artifacts.task_vector import Head, TaskVector


@dataclass(frozen=True)
class ChosenHead:
    """A head, the name of what it is of, and the output map that it is for."""

    name: str
    head: "Head"
    output_map: "NamedConfig | None"

    def fit(self, network: "Network", *, free: bool) -> None:
        """Let the network have the output map of the head, if it is free to change."""
        from kfac_artifacts.sources import output_map

        wanted = self.output_map
        if wanted is None or wanted == network.output_map.info:
            return
        if free:
            network.output_map = output_map(network.module, wanted.name)
        if wanted != network.output_map.info:
            raise click.UsageError(
                f"the head of {self.name} is for the output map {wanted}, the "
                f"network's is {network.output_map.info}; see --output-map"
            )


def choose_head(
    model: str, wanted: str | None, vectors: "Mapping[str, TaskVector]"
) -> ChosenHead:
    """Find the head to classify with: of a TAU, added or not, or beside MODEL."""
    from kfac_artifacts.sources import shipped_heads

    beside = shipped_heads(model)
    own = {
        path: ChosenHead(path, vector.head, vector.output_map)
        for path, vector in vectors.items()
        if vector.head is not None
    }
    heads = {name: ChosenHead(name, *found) for name, found in beside.items()} | own
    if wanted is None and not heads:
        raise click.UsageError(
            "neither a TAU that is added nor MODEL has a head; name a task vector with "
            "one (--head)"
        )
    if wanted is None:
        wanted = next(iter(own or heads))
        if len(heads) > 1:
            click.echo(f"classified with the head of {wanted}; see --head", err=True)
    found = [path for path in heads if wanted in {path, Path(path).name}]
    if wanted in heads or len(found) == 1:
        return heads.get(wanted) or heads[found[0]]
    if not is_vector(Path(wanted)):
        known = f"there are {listed([*heads])}" if heads else "there is none"
        raise click.UsageError(f"--head {wanted}: there is no such head; {known}")
    return _head_of(wanted)


def _head_of(path: str) -> ChosenHead:
    """The head of a task vector that is not added."""
    from kfac_artifacts.task_vector import TaskVector

    vector = TaskVector.load(path)
    if vector.head is None:
        raise click.UsageError(f"--head {path}: that task vector has no head")
    return ChosenHead(path, vector.head, vector.output_map)
