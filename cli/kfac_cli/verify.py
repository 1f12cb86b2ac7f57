"""``kfac verify``: is an artifact whole, of this model, and by whom?"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_cli import console
from kfac_cli.data import ChatDataOptions, PackOptions, tell
from kfac_cli.groups import group, option, shared
from kfac_cli.options import ModelOptions, batch_size_option, json_option
from kfac_cli.parameters import DIRECTORY, EXISTING_FILE, NAMED, POSITIVE

if TYPE_CHECKING:
    from kfac_artifacts.verify import Finding


@dataclass(frozen=True)
class SignerOptions:
    """Who is to have signed."""

    key: Path | None = option(
        "--key",
        type=EXISTING_FILE,
        help="Who made it: the public key, as PEM, to the one that signed it.",
    )
    identity: str | None = option(
        "--identity",
        metavar="NAME",
        help="Who made it: the e-mail address, or the workflow, that signed it with "
        "Sigstore; with --issuer.",
    )
    issuer: str | None = option(
        "--issuer",
        metavar="URL",
        help="Who vouches for the identity, such as https://accounts.google.com.",
    )
    trust_config: Path | None = option(
        "--trust-config",
        type=EXISTING_FILE,
        help="Trusted root of a Sigstore of your own.  [default: the public one's]",
    )

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.key is not None and self.identity is not None:
            raise click.UsageError("give --key or --identity, not both")
        if (self.identity is None) != (self.issuer is None):
            raise click.UsageError("--identity and --issuer go together")
        if self.trust_config is not None and self.identity is None:
            raise click.UsageError("--trust-config goes with --identity")

    def findings(self, artifact: Path) -> "list[Finding]":
        """Check the signature, if somebody is to have signed."""
        if self.key is None and self.identity is None:
            return []
        from kfac_artifacts.errors import FormatError
        from kfac_artifacts.signatures import Identity, check_signature
        from kfac_artifacts.verify import Finding

        signer: Path | Identity | None = self.key
        if signer is None:
            signer = Identity(self.identity or "", self.issuer or "", self.trust_config)
        try:
            return [Finding(True, "signature", check_signature(artifact, signer))]
        except FormatError as error:
            return [Finding(False, "signature", str(error))]


@dataclass(frozen=True)
class RecomputeOptions:
    """Whether it is computed again, from what, and how closely it is to agree."""

    of: tuple[str, str] | None = option(
        "--recompute",
        "of",
        nargs=2,
        type=NAMED,
        metavar="MODEL DATA",
        help="Compute it again, as its manifest says, from the data that it was "
        "computed from; for their owner.",
    )
    only: tuple[str, ...] = option(
        "--modules",
        "only",
        multiple=True,
        metavar="PATTERN",
        help="Compute again only the parameters named so; may be repeated.",
    )
    tolerance: float = option(
        "--tolerance",
        type=POSITIVE,
        default=1e-3,
        show_default=True,
        help="Largest relative difference of a block; twice what compressing lost is "
        "allowed besides.",
    )
    batch_size: int = shared(batch_size_option())

    def findings(
        self,
        artifact: Path,
        reading: ChatDataOptions,
        encoding: PackOptions,
        loading: ModelOptions,
    ) -> "list[Finding]":
        """Compute it again and compare, if that is asked for."""
        if self.of is None:
            return []
        from kfac_artifacts.sources import check_model

        model, data = self.of
        check_model(model)
        reading, encoding = _as_declared(artifact, reading, encoding)
        opened = reading.read_any(data)
        from kfac_artifacts.estimate import recompute
        from kfac_artifacts.format import load_artifact

        network = loading.load_for(model, artifact)
        examples = encoding.encode(opened, network)
        tell(examples)
        return recompute(
            load_artifact(artifact, verify=False),
            network,
            examples,
            only=self.only,
            tolerance=self.tolerance,
            batch_size=self.batch_size,
            progress=partial(console.progress, unit="examples"),
        )


def _as_declared(
    artifact: Path, reading: ChatDataOptions, encoding: PackOptions
) -> tuple[ChatDataOptions, PackOptions]:
    """Read texts as the manifest says, where the options say nothing else."""
    from kfac_artifacts.format import read_manifest
    from kfac_artifacts.json_object import JsonObject

    how = JsonObject({}, "")
    for source in read_manifest(artifact).provenance.sources[:1]:
        about = dict(source.data.preprocessing.configuration)
        how = JsonObject(about, f"{artifact}: preprocessing")
    columns = tuple(map(str, how.optional("columns", list) or ()))
    named = (reading.text_columns, reading.image_column, reading.chat_column)
    if columns and not any(named):
        alone = len(columns) == 1 and how.optional("chat", str) is not None
        chat, texts = (columns[0], ()) if alone else (None, columns)
        reading = replace(reading, text_columns=texts, chat_column=chat)
    longest, prompt = how.optional("max_length", int), how.optional("prompt", str)
    if columns and prompt is None:
        prompt = ""  # whatever the model declares, none was used
    return reading, replace(
        encoding,
        max_length=longest if encoding.max_length is None else encoding.max_length,
        prompt=prompt if encoding.prompt is None else encoding.prompt,
        pack=encoding.pack or bool(how.optional("packed", bool)),
    )


@click.command("verify")
@click.argument("artifact", type=DIRECTORY)
@click.option(
    "--model", type=NAMED, help="Compare with this model: Hub id or directory."
)
@group(SignerOptions)
@group(RecomputeOptions)
@group(ChatDataOptions)
@group(PackOptions)
@group(ModelOptions)
@json_option
def command(
    artifact: Path,
    model: str | None,
    signer: SignerOptions,
    again: RecomputeOptions,
    reading: ChatDataOptions,
    encoding: PackOptions,
    loading: ModelOptions,
    as_json: bool,
) -> None:
    """Check format, hashes, numbers and signature of ARTIFACT.

    Prints one line per finding; the exit code is 3 if one of them is bad. Hashes say
    that it is whole; who made it is known only with --key or --identity. An owner can
    compute it again: columns, --max-length, --prompt and --pack are the manifest's, and
    other options for data and model are given as they were to `kfac compute`.

    \b
    Example:
        kfac verify tickets --model sentence-transformers/all-MiniLM-L6-v2
        kfac verify tickets --key theirs.pub
        kfac verify tickets --recompute ./my-model tickets.csv
        kfac verify tickets --identity me@example.org --issuer https://accounts.google.com
    """
    signer.check()
    from kfac_artifacts.format import read_manifest

    total = len(read_manifest(artifact).factors)
    base = None
    if model is not None:
        from kfac_artifacts.sources import check_model

        check_model(model)
        base = replace(loading, device="cpu").load_for(model, artifact).base
    from kfac_artifacts.verify import verify

    signed = signer.findings(artifact)
    with console.progress("verifying", total, "factors") as advance:
        findings = [*signed, *verify(artifact, base, advance)]
    if all(finding.good for finding in findings):
        findings += again.findings(artifact, reading, encoding, loading)
    if as_json:
        console.print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "ok  " if finding.good else "BAD "
            click.echo(f"{mark} {finding.what}: {finding.message}")
    if not all(finding.good for finding in findings):
        sys.exit(3)
