"""``kfac sign``: say who made an artifact."""

from pathlib import Path

import click

from kfac_cli.parameters import DIRECTORY, EXISTING_FILE


@click.command("sign")
@click.argument("artifact", type=DIRECTORY)
@click.option(
    "--key",
    type=EXISTING_FILE,
    help="Sign with this private key: PEM, on the curve P-256, P-384 or P-521.",
)
@click.option("--ask-password", is_flag=True, help="Ask for the password of the key.")
@click.option(
    "--sigstore",
    is_flag=True,
    help="Sign by Sigstore, as the workflow that this runs in, or with an identity "
    "that a browser asks for. It gets into a public log.",
)
def command(
    artifact: Path, key: Path | None, ask_password: bool, sigstore: bool
) -> None:
    """Sign ARTIFACT: its manifest, and with it every factor.

    The signature is written to model.sig in ARTIFACT, goes with it when it is pushed
    and pulled, and is checked by `kfac verify --key` or `--identity`. What is made of a
    signed artifact, by merging or compressing, is not signed.

    \b
    Example:
        openssl ecparam -name prime256v1 -genkey -noout -out mine.pem
        openssl ec -in mine.pem -pubout -out mine.pub
        kfac sign tickets --key mine.pem
        kfac sign tickets --sigstore
    """
    if (key is None) != sigstore:
        raise click.UsageError("give either --key or --sigstore")
    if ask_password and key is None:
        raise click.UsageError("--ask-password goes with --key")
    from kfac_artifacts.signatures import sign

    password = click.prompt("password", hide_input=True) if ask_password else None
    click.echo(sign(artifact, key, password=password))
