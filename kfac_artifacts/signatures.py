"""Signatures of artifacts, by the OpenSSF's ``model-signing``: who made it.

The manifest and every file that it names are signed; the card, which registries write,
is not. The signature is a Sigstore bundle in ``model.sig`` beside the manifest,
made with a key of one's own, or by Sigstore with an identity (an e-mail address, a
workflow) and an entry in its public log. ``model-signing`` is an extra, ``[sign]``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from typing_extensions import override

from kfac_artifacts.errors import (
    ConnectionFailed,
    FormatError,
    SettingsError,
    first_line,
)
from kfac_artifacts.format import (
    MANIFEST,
    SIGNATURE,
    check_hashes,
    read_manifest,
    write_durably,
)

try:
    from model_signing import hashing, signing, verifying
except ImportError as error:
    raise SettingsError(
        "signatures need model-signing: pip install 'kfac-artifacts[sign]'"
    ) from error


@dataclass(frozen=True)
class Identity:
    """Who signed with Sigstore.

    Attributes:
        name: What the certificate says: an e-mail address, or the URI of a workflow.
        issuer: Address of the OpenID Connect issuer that vouches for it.
        trust: File with the trusted root of a Sigstore of one's own; None for the
            public one, whose root is fetched.
    """

    name: str
    issuer: str
    trust: Path | None = None


class _ArtifactFiles(hashing.Config):
    """Hashes all files of an artifact and no others.

    Whatever a signature says that it leaves out, links are followed (R5.2).
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = tuple(names)
        self.set_allow_symlinks(True)

    @override
    def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
        files = [Path(model_path) / name for name in self._names]
        return super().hash(model_path, files_to_hash=files)

    @override
    def add_ignored_paths(self, **_: Any) -> None:
        """Ignore nothing: a signature that left the manifest out would say nothing."""


def sign(
    directory: str | Path, key: str | Path | None = None, *, password: str | None = None
) -> Path:
    """Sign an artifact, after checking its hashes.

    Args:
        directory: The artifact; ``model.sig`` is written into it, or replaced.
        key: File with a private key on the curve P-256, P-384 or P-521, as PEM; None
            signs by Sigstore, with the identity of the workflow that this runs in, or
            one that a browser asks for. It needs the network, and is public.
        password: Of the key, if it has one.

    Returns:
        The file with the signature.

    Raises:
        FormatError: If the artifact is damaged.
        SettingsError: If the key cannot be used.
        ConnectionFailed: If Sigstore cannot be reached, or refuses.
    """
    path = Path(directory)
    check_hashes(path)
    config = signing.Config().set_hashing_config(_files_of(path))
    if key is not None:
        _use_key(config, Path(key), password)
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / SIGNATURE
        try:
            if key is None:
                config.use_sigstore_signer(use_ambient_credentials=True)
            config.sign(path, file)
        except Exception as error:
            if key is not None:
                raise
            raise ConnectionFailed(
                f"Sigstore could not sign: {first_line(error)}; try again, or sign "
                "with a key"
            ) from error
        write_durably(path / SIGNATURE, file.read_bytes())
    return path / SIGNATURE


def check_signature(directory: str | Path, signer: str | Path | Identity) -> str:
    """Check who signed an artifact, and that no file of it has changed since.

    Args:
        directory: The artifact.
        signer: File with the public key, as PEM; or who signed with Sigstore.

    Returns:
        What was found, in words.

    Raises:
        FormatError: If it is not signed, by somebody else, or has changed.
        SettingsError: If the key cannot be read.
        ConnectionFailed: If the root of Sigstore's trust cannot be fetched.
    """
    path = Path(directory)
    if not (path / SIGNATURE).is_file():
        raise FormatError(
            f"{path} is not signed: it has no {SIGNATURE}; its owner makes one with "
            "kfac sign"
        )
    files = _files_of(path)
    config = verifying.Config().set_hashing_config(files)
    if isinstance(signer, Identity):
        _trust_identity(config, signer)
        by = f"{signer.name} ({signer.issuer})"
    else:
        _trust_key(config, Path(signer))
        by = f"the key {signer}"
    try:
        config.verify(path, path / SIGNATURE)
    except Exception as error:  # a bundle may be anything, and each library has its own
        why = first_line(error)
        raise FormatError(
            f"{path / SIGNATURE} is no signature of this artifact by {by}: {why}; do "
            "not use it, and ask its owner"
        ) from error
    return f"signed by {by}, nothing changed since"


def _files_of(directory: Path) -> _ArtifactFiles:
    return _ArtifactFiles([MANIFEST, *read_manifest(directory).files])


def _use_key(config: signing.Config, key: Path, password: str | None) -> None:
    secret: Any = None if password is None else password.encode()  # as it is handed on
    try:
        config.use_elliptic_key_signer(private_key=key, password=secret)
    except (ValueError, TypeError, AttributeError) as error:
        raise _unusable(key, "private", error) from error


def _trust_key(config: verifying.Config, key: Path) -> None:
    try:
        config.use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise _unusable(key, "public", error) from error


def _trust_identity(config: verifying.Config, signer: Identity) -> None:
    try:
        config.use_sigstore_verifier(
            identity=signer.name, oidc_issuer=signer.issuer, trust_config=signer.trust
        )
    except Exception as error:
        if signer.trust is not None:
            raise SettingsError(
                f"{signer.trust} is no trust configuration of Sigstore: "
                f"{first_line(error)}"
            ) from error
        raise ConnectionFailed(
            "the root of Sigstore's trust could not be fetched: "
            f"{first_line(error)}; try again, or verify with --key"
        ) from error


def _unusable(key: Path, kind: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"{key} cannot be used: {first_line(error)}; give a {kind} key on the curve "
        "P-256, P-384 or P-521 as PEM, with its password if it has one"
    )
