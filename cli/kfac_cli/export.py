"""``kfac export``: an artifact to the files of another program."""

from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kfac_artifacts.choices import EXPORTS
from kfac_cli import console
from kfac_cli.given import check_artifacts
from kfac_cli.groups import group, option
from kfac_cli.options import json_option
from kfac_cli.parameters import COUNT, DIRECTORY, PLACE


@dataclass(frozen=True)
class ExportOptions:
    """What other programs call things; each goes with some formats."""

    modules: tuple[str, ...] = option(
        "--modules",
        multiple=True,
        metavar="PATTERN",
        help="Write these modules, such as '*.mlp.down_proj'; may be repeated.  "
        "[default: all]",
    )
    prefix: str | None = option(
        "--prefix",
        metavar="TEXT",
        help="What other programs have before the names of modules, such as model.",
    )
    arch: str | None = option(
        "--arch",
        metavar="NAME",
        help="Of imatrix.gguf: what GGUF calls the architecture, such as qwen3.",
    )
    samples: int | None = option(
        "--samples",
        type=COUNT,
        help="Of memit-npz: the number of examples in the names of the files.  "
        "[default: as many as were used]",
    )


@click.command("export")
@click.argument("form", metavar="FORMAT", type=click.Choice(list(EXPORTS)))
@click.argument("artifact", type=DIRECTORY)
@click.option(
    "-o", "--output", type=PLACE, required=True, help="File or directory to write."
)
@group(ExportOptions)
@click.option(
    "--allow-unfit",
    is_flag=True,
    help="Write it although compression has lost what is used there, or nobody knows.",
)
@json_option
def command(
    form: str,
    artifact: Path,
    output: Path,
    options: ExportOptions,
    allow_unfit: bool,
    as_json: bool,
) -> None:
    """Write ARTIFACT in the files of another program.

    What is there already is never replaced. An artifact whose compression has lost
    what the program uses is refused, as `kfac inspect` judges it, and so is what has
    no count of positions where the format has one.

    \b
    Formats:
        memit-npz     second moments for ROME, MEMIT, EasyEdit, AlphaEdit: a directory
        imatrix.gguf  importance matrix for llama.cpp: a file; needs [gguf]
        quip          Hessians for QuIP#, QTIP, VPTQ: a directory; needs means
        corda         covariance_file for CorDA in peft: a file
        kronfluence   covariance matrices: a directory

    \b
    Example:
        kfac export memit-npz wiki -o stats/gpt2-xl/wikipedia_stats --modules '*.mlp.c_proj' --prefix transformer. --samples 100000
        kfac export imatrix.gguf wiki -o qwen3.imatrix.gguf --arch qwen3
    """  # noqa: E501
    check_artifacts([artifact])
    from kfac_artifacts.bridges import choose_bridge, export_artifact

    given = {k: v for k, v in asdict(options).items() if v not in (None, ())}
    chosen = choose_bridge(EXPORTS, form, given)
    left = export_artifact(artifact, chosen, output, allow_unfit=allow_unfit)
    if as_json:
        console.print_json({"output": str(output), "format": form, "left_out": left})
        return
    for name, reason in left.items():
        click.echo(f"left out {name}: {reason}", err=True)
    click.echo(f"{output}: {form} of {artifact}")
