"""``kfac compute``: model and data to an artifact."""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.compute_options import (
    CotangentOptions,
    EstimatorOptions,
    NoiseOptions,
    RunOptions,
)
from kfac_cli.data import ChatDataOptions, PackOptions, tell
from kfac_cli.groups import group, option
from kfac_cli.options import (
    CompressedOptions,
    CoverageOptions,
    ModelOptions,
    WriteOptions,
    batch_size_option,
    examples_option,
    json_option,
    means_option,
    seed_option,
)
from kfac_cli.parameters import EXISTING_FILE, NAMED
from kfac_cli.units import size
from kfac_cli.writing import write

if TYPE_CHECKING:
    from kfac_artifacts.network import Network
    from kfac_artifacts.sources import ImageExamples, TextExamples


@dataclass(frozen=True)
class NameOptions:
    """What model and data are called in the artifact."""

    model_id: str | None = option(
        "--model-id",
        metavar="NAME",
        help="What to call the model.  [default: as given]",
    )
    data_id: str | None = option(
        "--data-id",
        metavar="NAME",
        help="What to call the data.  [default: the file's name]",
    )

    also_for: tuple[Path, ...] = option(
        "--also-for",
        type=EXISTING_FILE,
        multiple=True,
        metavar="FILE",
        help="A file of the same weights in another form, such as a quantised GGUF, "
        "which the artifact names by its sha256, so that whoever has that file alone "
        "finds the curvature; may be repeated.",
    )

    def rename(
        self, examples: "TextExamples | ImageExamples"
    ) -> "TextExamples | ImageExamples":
        """Call data as asked."""
        if self.data_id is None:
            return examples
        description = replace(examples.description, id=self.data_id)
        return replace(examples, description=description)


@click.command("compute")
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@group(WriteOptions)
@examples_option("to use, chosen by the seed")
@group(EstimatorOptions)
@group(CotangentOptions)
@seed_option("the choice of examples and of the cotangents")
@group(CoverageOptions)
@means_option
@click.option(
    "--allow-few",
    is_flag=True,
    help="Take fewer than 64 different examples, although what is computed of so few "
    "shows each of them, word for word.",
)
@group(NoiseOptions)
@group(ChatDataOptions)
@group(PackOptions)
@batch_size_option()
@group(RunOptions)
@group(ModelOptions)
@group(NameOptions)
@group(CompressedOptions)
@json_option
def command(
    model: str,
    data: str,
    writing: WriteOptions,
    examples: int,
    estimating: EstimatorOptions,
    drawing: CotangentOptions,
    seed: int,
    coverage: CoverageOptions,
    means: bool,
    allow_few: bool,
    hiding: NoiseOptions,
    reading: ChatDataOptions,
    encoding: PackOptions,
    batch_size: int,
    running: RunOptions,
    loading: ModelOptions,
    names: NameOptions,
    storing: CompressedOptions,
    as_json: bool,
) -> None:
    """Compute the curvature of MODEL on DATA, without labels.

    MODEL is a Hub id (org/name, org/name@revision), a directory, or module:function: a
    function of yours that gives a kfac_artifacts.Network, or a pair of one and what
    makes a batch of a list of texts or images. Its module is in the current directory
    or installed, and its code is run. DATA is the id of a dataset (org/name,
    org/name:config), a csv, tsv, jsonl or parquet file, or a folder of images.

    No example is in the artifact, but much can be read from it (spec/privacy.md):
    tables of tokens and positions are left out, and fewer than 64 examples refused,
    unless told; nothing hides what the layers right behind the embeddings are given
    but noise, by --dp-epsilon.

    What is done is kept beside the output, and --resume goes on from there. Several
    processes share the examples. A model larger than memory goes through it block by
    block with --stream; `kfac plan --stream` tells what that takes:

    \b
    Example:
        kfac compute sentence-transformers/all-MiniLM-L6-v2 tickets.csv -o tickets
        kfac compute openai/clip-vit-base-patch32 photos/ -o photos --examples 128
        kfac compute ./my-model mails.csv -o mails --estimator nearest
        kfac compute my_models:vit photos/ -o photos    # runs vit() of my_models.py
        kfac compute ./my-model wiki.jsonl -o statistics --estimator inputs
        kfac compute ./my-llm wiki.jsonl -o general --pack --max-length 1024
        kfac compute ./my-model mails.csv -o mails --examples 50000 \
            --dp-epsilon 8 --dp-delta 1e-6 --dp-public wiki.jsonl
        kfac compute ./my-model wiki.jsonl -o general --stream --batch-size 8
        torchrun --nproc-per-node 4 $(which kfac) compute ./my-model mails.csv -o mails
    """
    from kfac_artifacts.sources import check_model

    _check(estimating, drawing, running, hiding, means=means)
    recipe = storing.parse()
    checkpoint = writing.claim([model, data])
    check_model(model)
    opened, public = reading.read_any(data), hiding.read(reading)
    from kfac_artifacts.capture import require_rows
    from kfac_artifacts.estimate import discard, hold_together, save_together
    from kfac_artifacts.format import also_for
    from kfac_artifacts.workers import Workers

    if not allow_few:
        require_rows(min(examples, len(opened.table)))
    main = _is_main(running)
    together = hold_together(checkpoint, Workers.gather("cpu"))
    click.get_current_context().with_resource(together)
    started = time.perf_counter()
    network = running.load(loading, model, names.model_id)
    _tell_of_head(network, chosen=loading.output_map is None, main=main)
    found = names.rename(encoding.encode(opened, network, shown=main))
    account = tell(found, min(examples, len(found))) if main else {}
    if running.native and main:
        _tell_of(checkpoint, resume=running.resume)
    noise = hiding.noise(public, encoding, network)
    # what would be kept meanwhile has no noise yet
    artifact = running.engine_with(checkpoint if noise is None else None)(
        network,
        found,
        count=examples,
        cotangents=drawing.cotangents(running.usual_cotangents(network), seed),
        estimator=estimating.estimator(noise),
        only=coverage.only,
        exclude=coverage.exclude,
        tables=coverage.tables,
        **({"means": True} if means else {}),
        allow_few=allow_few,
        batch_size=batch_size,
        progress=partial(console.progress, unit="examples", shown=main),
    )
    save_together(
        also_for(artifact, dict.fromkeys(names.also_for)),
        writing.output,
        save=write,
        recipe=recipe,
        what="writing",
        shown=main,
        storage=storing.storage,
        max_shard_bytes=storing.max_shard_bytes,
        replace=writing.force,
    )
    if main:
        discard(checkpoint)
        seconds = time.perf_counter() - started
        _report(writing.output, seconds, account, as_json=as_json)


def _check(
    estimating: EstimatorOptions,
    drawing: CotangentOptions,
    running: RunOptions,
    hiding: NoiseOptions,
    *,
    means: bool,
) -> None:
    """Refuse what does not go together, before anything is read."""
    drawing.vectors()
    estimating.check(drawing)
    running.check(means=means)
    hiding.check(estimating, running)


def _is_main(running: RunOptions) -> bool:
    """Whether this process reports; meets the others, if there are several."""
    from kfac_artifacts.workers import Workers

    workers = Workers.gather("cpu")
    if workers.size > 1 and not running.native:
        raise click.UsageError("several processes go with the native engine")
    return workers.main


def _tell_of_head(network: "Network", *, chosen: bool, main: bool) -> None:
    """Say that f was chosen to be of the head that the model was saved with, if so."""
    name = network.output_map.info.name
    if chosen and main and network.output_map.ragged:
        click.echo(
            f"{network.id} was saved as {type(network.module).__name__}: f is {name}, "
            "the probabilities of the tokens that it predicts; --output-map embedding "
            "leaves its head out",
            err=True,
        )


def _tell_of(checkpoint: Path, *, resume: bool) -> None:
    from kfac_artifacts.estimate import kept_in

    if kept_in(checkpoint):
        click.echo(
            f"going on from {checkpoint}"
            if resume
            else f"beginning afresh, although {checkpoint} was there; --resume goes on",
            err=True,
        )
    elif resume:
        click.echo(
            f"nothing is kept in {checkpoint} to go on from; beginning", err=True
        )


def _report(
    output: Path, seconds: float, account: dict[str, Any], *, as_json: bool
) -> None:
    from kfac_artifacts.artifact import disclosure
    from kfac_artifacts.format import load_artifact, read_header
    from kfac_cli.inspect import overview

    header = read_header(output)
    summary = overview(header)
    summary["seconds"] = round(seconds, 1)
    found = disclosure(load_artifact(output, verify=False))
    summary["disclosure"] = asdict(found)
    console.warn(found.warnings)
    summary["read"] = account
    if as_json:
        console.print_json(summary)
        return
    console.print_uncovered(header.provenance.uncovered)
    click.echo(str(found))
    click.echo(
        f"{output}: {summary['modules']} modules, {summary['parameters']:,} parameters "
        f"covered ({summary['tensors']} tensors), {summary['examples']} examples of "
        f"{summary['sources'][0]['data']}, "
        f"{size(summary['bytes'])}, {summary['seconds']} s"
    )
