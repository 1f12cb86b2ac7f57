"""``kfac apply``: a model and task vectors to a model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import DTYPES
from kfac_artifacts.errors import listed
from kfac_cli import console
from kfac_cli.given import check_artifacts, check_vectors, is_adapter
from kfac_cli.groups import group
from kfac_cli.merge_options import MergeOptions, alpha_option, factors
from kfac_cli.options import WriteOptions, json_option
from kfac_cli.parameters import DIRECTORY, NAMED

if TYPE_CHECKING:
    from kfac_artifacts.sources import Applied
    from kfac_artifacts.task_vector import TaskVector

MOST_SHOWN = 20


@click.command("apply")
@click.argument("model", type=NAMED)
@click.argument("vectors", metavar="TAU...", type=DIRECTORY, nargs=-1, required=True)
@group(WriteOptions)
@alpha_option
@group(MergeOptions)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Number type to write.  [default: that of every tensor of MODEL]",
)
@json_option
def command(
    model: str,
    vectors: tuple[Path, ...],
    writing: WriteOptions,
    alphas: tuple[float, ...],
    merging: MergeOptions,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Add the task vectors TAU to MODEL, and write a model.

    Everything else stays as it is: heads and decoders that were not trained, names,
    files and number types of the weights, configuration, tokenizer, processor and the
    modules of sentence-transformers. Pickles, code and other weights are not copied; it
    is said which. A negative factor makes the model forget a task. Whatever the method,
    a task vector is multiplied by its factor first.

    Of a model of your own, module:function, the weights of its module are written, as
    `safetensors.torch.load_model` reads them.

    TAU may be an adapter of peft as well (LoRA, rsLoRA), which is merged into the
    weights. It does not say by which weights it was trained: give the same MODEL.

    The heads of the task vectors are put beside the model, each in heads/NAME, so that
    `kfac predict` can classify with them; other libraries do not see them.

    \b
    Example:
        kfac apply sentence-transformers/all-MiniLM-L6-v2 tau-a tau-b -o merged
        kfac apply openai/clip-vit-base-patch32 tau --alpha 0.5 -o half
        kfac apply my-model tau-a tau-b --method ties --keep 10% -o merged
        kfac apply my-model tau-a tau-b --method regmean --curvature tau-a=a-inputs \\
            --curvature tau-b=b-inputs -o merged
    """
    from kfac_artifacts.sources import check_model

    weights = factors(alphas, vectors)
    check_model(model)
    artifacts = merging.artifacts(vectors)
    writing.check_free([model, *vectors, *artifacts])
    check_vectors(path for path in vectors if not is_adapter(path))
    check_artifacts(artifacts)
    method = merging.method(artifacts)
    from kfac_artifacts.sources import apply

    loaded = [_load(path, model) for path in vectors]
    done = apply(
        model,
        loaded,
        writing.output,
        alphas=weights,
        method=method,
        dtype=dtype,
        names=[path.resolve().name.lstrip(".") or "task" for path in vectors],
        replace=writing.force,
    )
    if as_json:
        taus = [
            {"path": str(path), "alpha": alpha}
            for path, alpha in zip(vectors, weights, strict=True)
        ]
        result = asdict(done) | {"output": str(done.path), "vectors": taus}
        result.pop("path")
        console.print_json(result)
    else:
        _print(done, len(vectors))


def _load(path: Path, model: str) -> "TaskVector":
    """Load a task vector, or an adapter as one."""
    from kfac_artifacts.sources import load_adapter
    from kfac_artifacts.task_vector import TaskVector

    return load_adapter(path, model) if is_adapter(path) else TaskVector.load(path)


def _print(done: "Applied", vectors: int) -> None:
    count = f"{vectors} task vector{'s' if vectors > 1 else ''}"
    click.echo(
        f"{done.path}: {count} added to {len(done.changed)} of {done.tensors} tensors, "
        f"in {', '.join(done.dtypes)}"
    )
    if done.renamed:
        click.echo(
            f"{done.renamed} parameters, trained without the head of the model, were "
            "added under their names in the class with it"
        )
    if done.averaged:
        names = listed(done.averaged)
        click.echo(f"merged by the mean, {len(done.averaged)} parameters: {names}")
    if done.heads:
        click.echo(f"heads/: {listed(done.heads)}, for `kfac predict --head`")
    if done.lost > 0:
        percent = 100 * done.lost
        shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
        click.echo(f"rounding takes {shown} % of what was added")
    for name, reason in [*done.left_out.items()][:MOST_SHOWN]:
        shown = name if name.isprintable() else ascii(name)
        click.echo(f"left out: {shown}, {reason}")
    if len(done.left_out) > MOST_SHOWN:
        click.echo(f"left out: {len(done.left_out) - MOST_SHOWN} more, see --json")
    if "README.md" in done.files:
        click.echo("README.md was copied and describes the model as it was before")
