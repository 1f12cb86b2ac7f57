"""``kfac import``: somebody else's files to an artifact."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import DTYPES, IMPORTS
from kfac_cli import console
from kfac_cli.groups import group, option
from kfac_cli.options import (
    CompressedOptions,
    WriteOptions,
    allow_indefinite_option,
    json_option,
)
from kfac_cli.parameters import COUNT, NAMED, NATURAL, PLACE
from kfac_cli.units import size
from kfac_cli.writing import write

if TYPE_CHECKING:
    from kfac_artifacts.bridges import About
    from kfac_artifacts.network import Network


@dataclass(frozen=True)
class ConventionOptions:
    """What a format does not say of its numbers; each goes with some formats."""

    positions: int | None = option(
        "--positions",
        type=COUNT,
        help="Of tak: how many positions of an example a layer sees, such as 50 of "
        "ViT-B/32, 197 of B/16, 257 of L/14. Of covariances: of how many positions "
        "they are the mean or the sum.",
    )
    draws: int | None = option(
        "--draws",
        type=NATURAL,
        help="Of tak: draws per example, 0 for the exact expectation.",
    )
    batch_size: int | None = option(
        "--batch-size",
        type=COUNT,
        help="Of adam: examples of a step, over all processes.",
    )
    sums: bool | None = option(
        "--sums", is_flag=True, default=None, help="Covariances: they are sums."
    )


@dataclass(frozen=True)
class AboutOptions:
    """What is recorded of data and model, and what modules are called there."""

    examples: int | None = option(
        "--examples",
        type=COUNT,
        help="How many examples were used.  [default: as the files tell]",
    )
    size: int | None = option(
        "--size",
        type=COUNT,
        help="How many examples the data have.  [default: as many as were used]",
    )
    data_id: str | None = option(
        "--data-id",
        metavar="NAME",
        help="What to call the data.  [default: as the files are called]",
    )
    output_map: str | None = option(
        "--output-map",
        metavar="NAME",
        help="The function f whose curvature it is: one that the model has, or a name "
        "of your own, such as org.example/likelihood.",
    )
    renames: tuple[str, ...] = option(
        "--rename",
        "renames",
        multiple=True,
        metavar="OLD=NEW",
        help="What the files call OLD, a regular expression, the model calls NEW, such "
        r"as 'h\.(\d+)\.mlp=layers.\1.mlp.fc1'; may be repeated.",
    )
    left_out: tuple[str, ...] = option(
        "--leave-out",
        "left_out",
        multiple=True,
        metavar="PATTERN",
        help="Leave out what the files call so; may be repeated.",
    )

    def about(self) -> "About":
        """What the library takes."""
        from kfac_artifacts.artifact import NamedConfig
        from kfac_artifacts.bridges import About, Naming

        pairs = [text.partition("=") for text in self.renames]
        for old, equals, _ in pairs:
            if not equals:
                raise click.UsageError(f"--rename {old} is not of the form OLD=NEW")
        naming = Naming(tuple((old, new) for old, _, new in pairs), self.left_out)
        own = NamedConfig(self.output_map) if self.is_own and self.output_map else None
        return About(self.data_id, self.examples, self.size, own, naming)

    @property
    def is_own(self) -> bool:
        """Whether the output map is none that the model has."""
        return "/" in (self.output_map or "")


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(list(IMPORTS)))
@click.argument("path", type=PLACE)
@click.option(
    "--model", type=NAMED, required=True, help="The model that the numbers are of."
)
@group(WriteOptions)
@group(ConventionOptions)
@group(AboutOptions)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="What the model is loaded in; it changes no hash unless it rounds.",
)
@click.option("--model-id", metavar="NAME", help="What to call the model.")
@group(CompressedOptions)
@allow_indefinite_option
@json_option
def command(
    form: str,
    path: Path,
    model: str,
    writing: WriteOptions,
    conventions: ConventionOptions,
    describing: AboutOptions,
    dtype: str,
    model_id: str | None,
    storing: CompressedOptions,
    allow_indefinite: bool,
    as_json: bool,
) -> None:
    """Make an artifact of curvature that another program computed.

    FORMAT says what PATH is, and so which conventions are undone (spec/bridges.md).
    What the files do not tell is asked for. That MODEL is the one that they were
    computed with nobody can tell: shapes are compared, and the hashes of MODEL are
    recorded. What goes with no module of it is an error; nothing is left out unless
    told. No pickle is run.

    \b
    Formats:
        tak          the authors' files of one task, <dataset>_task_<id>_*.pt
        kronfluence  a directory factors_<name>, with eigenvalues or without
        bergson      the directory of a run, with eigenvalues or without
        covariances  a .pt, .safetensors or .npz: module to covariance of its inputs
        memit-npz    a directory of <module>_float32_mom2_*.npz, or one of them
        quip         a directory of <layer>_{qkv,o,up,down}.pt, of QuIP#, QTIP or VPTQ
        bayesvlm     a directory of {A,B}_{img,txt}_analytic.pt
        adam         the state of an optimiser that has second moments, optimizer.pt

    \b
    Example:
        kfac import tak tak/seq-8vision_task_0 --model openai/clip-vit-base-patch16 -o cars --positions 197 --draws 1
        kfac import kronfluence factors_all --model ./model -o mine --output-map org.example/likelihood
        kfac import covariances cov_flan_full.pt --model Qwen/Qwen3-1.7B -o flan --examples 10000
    """  # noqa: E501
    from kfac_artifacts.sources import check_model

    recipe = storing.parse()
    writing.check_free([model, path])
    check_model(model)
    about = describing.about()
    from kfac_artifacts.bridges import choose_bridge
    from kfac_artifacts.format import read_header
    from kfac_cli.inspect import overview

    chosen = choose_bridge(IMPORTS, form, asdict(conventions))
    network = _load(model, describing, dtype, model_id)
    if describing.output_map and not describing.is_own:
        from dataclasses import replace

        about = replace(about, output_map=network.output_map.info)
    artifact = chosen.convert(path, network, about)
    write(
        artifact,
        writing.output,
        recipe=recipe,
        what="converting",
        storage=storing.storage,
        max_shard_bytes=storing.max_shard_bytes,
        replace=writing.force,
        allow_indefinite=allow_indefinite,
    )
    header = read_header(writing.output)
    summary = overview(header)
    if as_json:
        console.print_json(summary)
        return
    console.print_uncovered(header.provenance.uncovered)
    click.echo(
        f"{writing.output}: {summary['modules']} modules, {summary['parameters']:,} "
        f"parameters covered, converted from {form} ({path}), "
        f"{size(summary['bytes'])}"
    )


def _load(
    model: str, describing: AboutOptions, dtype: str, model_id: str | None
) -> "Network":
    from kfac_artifacts.choices import EMBEDDING
    from kfac_artifacts.sources import load_network

    return load_network(
        model,
        output_map=(None if describing.is_own else describing.output_map) or EMBEDDING,
        device="cpu",
        dtype=dtype,
        model_id=model_id,
    )
