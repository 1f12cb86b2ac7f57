"""``kfac compute``: model and data to an artifact."""

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfac_cli import console
from kfac_cli.compute_options import (
    disclosure_options,
    estimator_options,
    job_options,
)
from kfac_cli.data import open_data, tell
from kfac_cli.options import (
    NAMED,
    batch_size_option,
    data_options,
    json_option,
    model_options,
    pattern_options,
    recipe_option,
    storage_options,
    write_options,
)
from kfac_cli.writing import check_choice, write

if TYPE_CHECKING:
    from kfac_artifacts.sources import Data


@click.command("compute")
@click.argument("model", type=NAMED)
@click.argument("data", type=NAMED)
@write_options
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="How many examples to use, chosen by the seed.",
)
@estimator_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@pattern_options
@disclosure_options
@data_options
@batch_size_option
@job_options
@model_options
@click.option("--model-id", help="What to call the model.  [default: as given]")
@click.option("--data-id", help="What to call the data.  [default: the file's name]")
@storage_options
@recipe_option
@json_option
def command(
    model: str,
    data: str,
    output: Path,
    examples: int,
    name: str,
    terms: int,
    shrinkage: bool,
    memory: float,
    engine: str,
    cotangents: str | None,
    draws: int | None,
    seed: int,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    tables: bool,
    allow_few: bool,
    batch_size: int,
    resume: bool,
    every: int,
    shard: bool,
    storage: str | None,
    recipe: str | None,
    max_shard_size: float,
    force: bool,
    as_json: bool,
    **sources: Any,
) -> None:
    """Compute the curvature of MODEL on DATA, without labels.

    MODEL is a Hub id (org/name, org/name@revision) or a directory. DATA is the id of a
    dataset (org/name, org/name:config), a csv, tsv, jsonl or parquet file, or a folder
    of images.

    No example is in the artifact, but much can be read from it (spec/privacy.md):
    tables of tokens and positions are left out, and fewer than 64 examples refused,
    unless told; nothing hides what the layers right behind the embeddings are given.

    What is done is kept beside the output, and --resume goes on from there. Several
    processes share the examples:

    \b
    Example:
        kfac compute sentence-transformers/all-MiniLM-L6-v2 tickets.csv -o tickets
        kfac compute openai/clip-vit-base-patch32 photos/ -o photos --examples 128
        kfac compute ./my-model mails.csv -o mails --estimator nearest
        torchrun --nproc-per-node 4 $(which kfac) compute ./my-model mails.csv -o mails
    """
    from kfac_artifacts.places import claimed

    _check_usage(engine, cotangents, draws, alone=not (resume or shard))
    how = check_choice(recipe, storage)
    until_the_end = click.get_current_context().with_resource
    checkpoint = until_the_end(claimed(output, replace=force, inputs=[model, data]))
    opened = open_data(model, data, sources)
    from kfac_artifacts.artifact import Cotangents
    from kfac_artifacts.estimate import (
        ComputeOptions,
        Estimator,
        Workers,
        compute,
        compute_with_curvlinops,
        discard,
        hold_together,
        require_rows,
        save_together,
    )

    if not allow_few:
        require_rows(min(examples, len(opened.table)))
    main = _is_main(engine)
    until_the_end(hold_together(checkpoint, Workers.gather("cpu")))
    started = time.perf_counter()
    network, found = _open(model, opened, **sources)
    account = tell(found, min(examples, len(found))) if main else {}
    kind = cotangents or ("orthogonal" if engine == "own" else "mc")
    run = compute_with_curvlinops
    if engine == "own":
        run = partial(compute, job=ComputeOptions(checkpoint, resume, every, shard))
        if main:
            _tell_of(checkpoint, resume=resume)
    artifact = run(
        network,
        found,
        count=examples,
        cotangents=Cotangents(kind, None if kind == "exact" else draws or 1, seed),
        estimator=Estimator(name, terms, shrinkage, memory=int(memory * 10**9)),
        only=only,
        exclude=exclude,
        tables=tables,
        allow_few=allow_few,
        batch_size=batch_size,
        progress=partial(console.progress, unit="examples", shown=main),
    )
    save_together(
        artifact,
        output,
        save=write,
        recipe=how,
        what="writing",
        shown=main,
        storage=storage,
        max_shard_bytes=int(max_shard_size * 10**9),
        replace=force,
    )
    if main:
        discard(checkpoint)
        _report(output, time.perf_counter() - started, account, as_json=as_json)


def _check_usage(
    engine: str, cotangents: str | None, draws: int | None, *, alone: bool
) -> None:
    if cotangents == "exact" and draws is not None:
        raise click.UsageError("--draws does not go with --cotangents exact")
    if engine != "own" and not alone:
        raise click.UsageError("--resume and --shard go with the own engine")


def _is_main(engine: str) -> bool:
    """Whether this process reports; meets the others, if there are several."""
    import torch

    from kfac_artifacts.estimate import Workers

    workers = Workers.gather(torch.device("cpu"))
    if workers.size > 1 and engine != "own":
        raise click.UsageError("several processes go with the own engine")
    return workers.main


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
        click.echo(f"there is no {checkpoint} to go on from; beginning", err=True)


def _open(
    model: str,
    data: "Data",
    *,
    output_map: str | None,
    device: str,
    dtype: str,
    model_id: str | None,
    data_id: str | None,
    max_length: int | None,
    prompt: str | None,
) -> tuple[Any, Any]:
    from kfac_artifacts.sources import encode_data, load_network

    network = load_network(
        model, output_map=output_map, device=device, dtype=dtype, model_id=model_id
    )
    examples = encode_data(data, network, max_length=max_length, prompt=prompt)
    if data_id is not None:
        description = replace(examples.description, id=data_id)
        examples = replace(examples, description=description)
    return network, examples


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
        f"{console.size(summary['bytes'])}, {summary['seconds']} s"
    )
