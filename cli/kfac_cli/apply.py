"""``kfac apply``: a model and task vectors to a model."""

from pathlib import Path

import click

from kfac_cli import console
from kfac_cli.options import DIRECTORY, NAMED, json_option, write_options


@click.command("apply")
@click.argument("model", type=NAMED)
@click.argument("vectors", metavar="TAU...", type=DIRECTORY, nargs=-1, required=True)
@write_options
@click.option(
    "--alpha",
    "alphas",
    type=float,
    multiple=True,
    help="Factor of the task vectors: one for all, or repeated, one for each. "
    "[default: 1]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Number type to write.",
)
@json_option
def command(
    model: str,
    vectors: tuple[Path, ...],
    output: Path,
    force: bool,
    alphas: tuple[float, ...],
    dtype: str,
    as_json: bool,
) -> None:
    """Add the task vectors TAU to MODEL, and write a model.

    The directory is one that transformers loads; tokenizer, processor and the like are
    copied along. A negative factor makes the model forget a task.

    \b
    Example:
        kfac apply sentence-transformers/all-MiniLM-L6-v2 tau-a tau-b -o merged
        kfac apply openai/clip-vit-base-patch32 tau --alpha 0.5 -o half
    """
    from kfac_artifacts.places import check_free
    from kfac_artifacts.sources import load_network
    from kfac_artifacts.sources.models import DTYPES, locate
    from kfac_artifacts.sources.save import save_model
    from kfac_artifacts.task_vector import TaskVector, combine

    if len(alphas) not in {0, 1, len(vectors)}:
        raise click.UsageError(
            f"{len(vectors)} task vectors need one --alpha or {len(vectors)}, found "
            f"{len(alphas)}"
        )
    check_free(output, replace=force, inputs=[model, *vectors])
    factors = (
        alphas if len(alphas) == len(vectors) else [*(alphas or (1.0,))] * len(vectors)
    )
    total = combine([TaskVector.load(path) for path in vectors], factors)
    network = load_network(model, device="cpu")
    total.apply(network)
    network.to(dtype=DTYPES[dtype])
    save_model(network, locate(model).directory, output, replace=force)
    changed = len(total.tensors)
    if as_json:
        taus = [
            {"path": str(path), "alpha": alpha}
            for path, alpha in zip(vectors, factors, strict=True)
        ]
        console.print_json({"output": str(output), "vectors": taus, "tensors": changed})
    else:
        click.echo(f"{output}: {len(vectors)} task vectors in {changed} tensors added")
