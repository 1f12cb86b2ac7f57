"""``kfac predict``: a class for every row of some data."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from kfac_artifacts.choices import MODES
from kfac_cli import console
from kfac_cli.data import DataOptions, EncodeOptions, tell
from kfac_cli.given import check_artifacts, check_vectors
from kfac_cli.groups import group
from kfac_cli.merge_options import MergeOptions, alpha_option, factors
from kfac_cli.options import ModelOptions, batch_size_option, json_option
from kfac_cli.parameters import DIRECTORY, FILE, NAMED
from kfac_cli.predict_head import choose_head

MOST_SHOWN = 5


@click.command("predict")
@click.argument("model", type=NAMED)
@click.argument("vectors", metavar="[TAU]...", type=DIRECTORY, nargs=-1)
@click.argument("data", type=NAMED)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="File to write: csv, tsv or jsonl; one that is there is never replaced. "
    "[default: csv, to standard output]",
)
@click.option(
    "--head",
    "head_name",
    metavar="TAU",
    help="Whose head to classify with: a task vector by its path or name, be it added "
    "or not, or a head beside MODEL by its name.  [default: the first]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="Classify by f + J tau (linear) or by f(theta + tau) (plain).  [default: as "
    "the task vectors were trained]",
)
@alpha_option
@click.option(
    "--copy",
    "copied",
    multiple=True,
    metavar="NAME",
    help="Column of DATA to copy beside the class, such as an id; may be repeated.",
)
@group(MergeOptions)
@group(DataOptions)
@group(EncodeOptions)
@batch_size_option(64)
@group(ModelOptions)
@json_option
def command(
    model: str,
    vectors: tuple[Path, ...],
    data: str,
    output: Path | None,
    head_name: str | None,
    mode: str | None,
    alphas: tuple[float, ...],
    copied: tuple[str, ...],
    merging: MergeOptions,
    reading: DataOptions,
    encoding: EncodeOptions,
    batch_size: int,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Give every row of DATA a class, by MODEL with TAU added.

    Every row is told by its line or row in the file, and comes with the probability of
    its class, which nobody has calibrated. Blank lines are skipped, and it is said how
    many.

    \b
    Example:
        kfac predict my-model tau-a tau-b mails.csv -o mails-labelled.csv --copy id
        kfac predict my-model tau-a tau-b mails.csv --head tau-b --mode plain --json
        kfac predict merged mails.csv --head tau-b    # merged by kfac apply
    """
    from kfac_artifacts.sources import check_copied, check_model, check_predictable

    weights, artifacts = factors(alphas, vectors), merging.artifacts(vectors)
    if output is not None:
        check_predictable(output, [model, *vectors, data, *artifacts])
    check_vectors(vectors)
    check_artifacts(artifacts)
    check_model(model)
    opened, method = reading.read_all(data, copied), merging.method(artifacts)
    check_copied(opened.table, copied)
    from kfac_artifacts.evaluate import predict
    from kfac_artifacts.sources import is_function, prediction_rows
    from kfac_artifacts.task_vector import TaskVector

    loaded = {str(path): TaskVector.load(path) for path in vectors}
    chosen = choose_head(model, head_name, loaded)
    network = loading.load_embedding(model, chosen.output_map)
    free = loading.output_map is None and not is_function(model)
    chosen.fit(network, free=free)
    examples = encoding.encode(opened, network)
    account = {"read": tell(examples, len(examples)), "head": chosen.name}
    with console.progress("predicting", len(examples), "examples") as advance:
        found = predict(
            network,
            examples,
            [loaded[str(path)] for path in vectors],
            chosen.head,
            alphas=weights,
            method=method,
            mode=mode,
            batch_size=batch_size,
            progress=advance,
        )
    answers = zip(found.labels, found.confidences, strict=True)
    rows = prediction_rows(opened.table, answers, copied)
    account["mode"] = found.mode
    _report(rows, output, account if as_json else None)


def _report(
    rows: "list[dict[str, Any]]", output: Path | None, about: dict[str, Any] | None
) -> None:
    """Write the rows or print them, as JSON with what was done if that is given."""
    from kfac_artifacts.sources import delimited, write_predictions

    if output is not None:
        write_predictions(rows, output)
    if about is not None:
        kept = {"rows": rows} if output is None else {"output": str(output)}
        console.print_json({**about, "warnings": console.SPOKEN.said, **kept})
    elif output is None:
        click.echo(delimited(rows), nl=False)
    else:
        counts = Counter(row["class"] for row in rows).most_common(MOST_SHOWN)
        most = ", ".join(f"{name} ({count})" for name, count in counts)
        click.echo(f"{output}: {len(rows)} rows; most often {most}")
