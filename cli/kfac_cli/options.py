"""Options that several commands share, spelled once."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import DTYPES, EMBEDDING, KEPT_BYTES, MODES, STORAGES
from kfac_cli.groups import Option, option, shared
from kfac_cli.parameters import COUNT, DIRECTORY, FILE, NATURAL, Size

if TYPE_CHECKING:
    from kfac_artifacts.artifact import NamedConfig
    from kfac_artifacts.compress import Recipe
    from kfac_artifacts.hub import Hub
    from kfac_artifacts.network import Network

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
allow_indefinite_option = click.option(
    "--allow-indefinite",
    is_flag=True,
    help="Take, and write, factors that clearly reward drift along some directions.",
)
max_shard_option = click.option(
    "--max-shard-size",
    "max_shard_bytes",
    type=Size(),
    default="5GB",
    show_default=True,
    help="Write several files above this size.",
)
means_option = click.option(
    "--means",
    is_flag=True,
    help="Keep the means of inputs also where there is no bias, for kfac and inputs.",
)
plot_option = click.option(
    "--plot", type=FILE, help="Draw the result into this png, pdf or svg file."
)
task_vectors_option = click.option(
    "--task-vector",
    "task_vectors",
    type=DIRECTORY,
    multiple=True,
    help="Also look along this task vector; may be repeated.",
)


def examples_option(what: str) -> Option:
    """How many examples, and what for."""
    return click.option(
        "--examples",
        type=COUNT,
        default=256,
        show_default=True,
        help=f"How many examples {what}.",
    )


def seed_option(what: str) -> Option:
    """What is random, and the same for the same seed."""
    return click.option(
        "--seed",
        type=NATURAL,
        default=0,
        show_default=True,
        help=f"Seed of {what}.",
    )


def batch_size_option(
    default: int = 32, what: str = "pass; it changes nothing but speed and memory"
) -> Option:
    """How many examples at a time, and what for."""
    return click.option(
        "--batch-size",
        type=COUNT,
        default=default,
        show_default=True,
        help=f"Examples per {what}.",
    )


def mode_option(what: str) -> Option:
    """In which form a moved network is looked at."""
    return click.option(
        "--mode",
        type=click.Choice([*MODES, "both"]),
        default="both",
        show_default=True,
        help=what,
    )


def modes_of(mode: str) -> tuple[str, ...]:
    """The forms that ``--mode`` names, one after the other."""
    return MODES if mode == "both" else (mode,)


def memory_option(what: str) -> Option:
    """How much of the activations may be kept."""
    return click.option(
        "--memory",
        type=Size(),
        default=f"{KEPT_BYTES // 10**9}GB",
        show_default=True,
        help=what,
    )


def vectors_per_example(cotangents: str | None, draws: int | None) -> int | None:
    """How many random vectors; None for all unit vectors, which nobody counts."""
    if cotangents != "exact":
        return draws or 1
    if draws is not None:
        raise click.UsageError("--draws does not go with --cotangents exact")
    return None


@dataclass(frozen=True)
class MetaModelOptions:
    """How MODEL is built."""

    output_map: str | None = option(
        "--output-map",
        metavar="NAME",
        help="The function f of the model, by name; embedding for the usual one "
        "without a head. [default: by architecture]",
    )
    dtype: str = option(
        "--dtype",
        type=click.Choice(DTYPES),
        default="float32",
        show_default=True,
        help="What to compute in; sums are float32 in any case.",
    )

    def build(self, model: str) -> "Network":
        """Build it without numbers, from its configuration alone."""
        from kfac_artifacts.sources import load_skeleton

        return load_skeleton(model, output_map=self.output_map, dtype=self.dtype)


@dataclass(frozen=True)
class ModelOptions(MetaModelOptions):
    """How MODEL is loaded, and where it runs."""

    device: str = option(
        "--device",
        default="auto",
        show_default=True,
        help="Where to run: auto, cpu, cuda, or another one that torch knows.",
    )

    def load(self, model: str, model_id: str | None = None) -> "Network":
        """Load it with its output map."""
        return self._load(model, self.output_map, model_id)

    def load_streamed(self, model: str, model_id: str | None = None) -> "Network":
        """Open it, its weights left in their files."""
        from kfac_artifacts.sources import load_streamed

        return load_streamed(
            model,
            output_map=self.output_map,
            device=self.device,
            dtype=self.dtype,
            model_id=model_id,
        )

    def load_embedding(
        self, model: str, wanted: "NamedConfig | None" = None
    ) -> "Network":
        """Load it to classify what it embeds: without a head, unless one is wanted."""
        from kfac_artifacts.sources import is_head_map

        headed = wanted is not None and is_head_map(wanted.name)
        usual = wanted.name if wanted is not None and headed else EMBEDDING
        return self._load(model, self.output_map or usual)

    def load_for(self, model: str, artifact: Path) -> "Network":
        """Load it with or without its head, as that of an artifact, unless told."""
        from kfac_artifacts.format import read_manifest
        from kfac_artifacts.sources import is_head_map

        name = read_manifest(artifact).provenance.output_map.name
        usual = name if is_head_map(name) else EMBEDDING
        return self._load(model, self.output_map or usual)

    def _load(
        self, model: str, output_map: str | None, model_id: str | None = None
    ) -> "Network":
        from kfac_artifacts.sources import load_network

        return load_network(
            model,
            output_map=output_map,
            device=self.device,
            dtype=self.dtype,
            model_id=model_id,
        )


@dataclass(frozen=True)
class CoverageOptions:
    """Which parameters the curvature is of."""

    only: tuple[str, ...] = option(
        "--modules",
        "only",
        multiple=True,
        metavar="PATTERN",
        help="Cover the parameters named so, such as 'encoder.layer.5.*'; may be "
        "repeated. [default: all]",
    )
    exclude: tuple[str, ...] = option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out the parameters named so; may be repeated.",
    )
    tables: bool = option(
        "--include-tables",
        "tables",
        is_flag=True,
        help="Cover tables of tokens and positions as well. It publishes the exact "
        "number of times that each token and each place occurs in the data.",
    )


@dataclass(frozen=True)
class WriteOptions:
    """Where a command writes, and over what."""

    output: Path = option(
        "-o", "--output", type=DIRECTORY, required=True, help="Directory to write."
    )
    force: bool = option(
        "--force",
        is_flag=True,
        help="Replace what kfac wrote there; nothing else is ever replaced.",
    )

    def check_free(self, inputs: Sequence[str | Path]) -> None:
        """Refuse a place that is taken, or an input."""
        from kfac_artifacts.places import check_free

        check_free(self.output, replace=self.force, inputs=inputs)

    def claim(self, inputs: Sequence[str | Path]) -> Path:
        """Keep the place for this command until its end; gives its checkpoint."""
        from kfac_artifacts.places import claimed

        keep = click.get_current_context().with_resource
        return keep(claimed(self.output, replace=self.force, inputs=inputs))


@dataclass(frozen=True)
class StorageOptions:
    """How numbers are stored."""

    storage: str | None = option(
        "--storage",
        type=click.Choice(list(STORAGES)),
        help="How numbers are stored; symmetric keeps one triangle, losing "
        "nothing. [default: as they are, or symmetric-float32]",
    )
    max_shard_bytes: int = shared(max_shard_option)


@dataclass(frozen=True)
class CompressedOptions(StorageOptions):
    """How numbers are stored, or compressed."""

    recipe: str | None = option(
        "--recipe",
        metavar="NAME",
        help="Compress what is written, as `kfac compress` does.",
    )

    def parse(self) -> "Recipe | None":
        """Read the recipe before any work is done; it says the storage, too."""
        if self.recipe is None:
            return None
        if self.storage is not None:
            raise click.UsageError(
                "--recipe says how numbers are stored; drop --storage"
            )
        from kfac_artifacts.compress import Recipe

        return Recipe.parse(self.recipe)


@dataclass(frozen=True)
class HubOptions:
    """How to speak with the Hub."""

    endpoint: str | None = option(
        "--endpoint", metavar="URL", help="The Hub.  [default: HF_ENDPOINT]"
    )
    retries: int = option(
        "--retries",
        type=NATURAL,
        default=4,
        show_default=True,
        help="How often to repeat what failed for a passing reason.",
    )

    def connect(self) -> "Hub":
        """Get ready to speak with it."""
        from kfac_artifacts.hub import Hub

        return Hub(endpoint=self.endpoint, retries=self.retries)

    @staticmethod
    def shown(*, as_json: bool) -> AbstractContextManager[None]:
        """Show on stderr how far the transfer is: a bar, or lines in a log."""
        from kfac_artifacts.hub import client_output

        terminal = sys.stderr.isatty()
        return client_output(bars=terminal and not as_json, lines=not terminal)
