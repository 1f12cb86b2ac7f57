"""``kfac verify``: is an artifact whole, and of this model?"""

import sys
from pathlib import Path

import click

from kfac_cli import console
from kfac_cli.options import json_option
from kfac_cli.parameters import DIRECTORY, NAMED


@click.command("verify")
@click.argument("artifact", type=DIRECTORY)
@click.option(
    "--model", type=NAMED, help="Compare with this model: Hub id or directory."
)
@json_option
def command(artifact: Path, model: str | None, as_json: bool) -> None:
    """Check format, hashes, numbers and base model of ARTIFACT.

    Prints one line per finding; the exit code is 3 if one of them is bad.

    \b
    Example:
        kfac verify tickets --model sentence-transformers/all-MiniLM-L6-v2
    """
    from kfac_artifacts.format import read_manifest

    total = len(read_manifest(artifact).factors)
    base = None
    if model is not None:
        from kfac_artifacts.sources import check_model

        check_model(model)
        from kfac_artifacts.sources import load_network

        base = load_network(model, device="cpu").base
    from kfac_artifacts.verify import verify

    with console.progress("verifying", total, "factors") as advance:
        findings = verify(artifact, base, advance)
    if as_json:
        console.print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "ok  " if finding.good else "BAD "
            click.echo(f"{mark} {finding.what}: {finding.message}")
    if not all(finding.good for finding in findings):
        sys.exit(3)
