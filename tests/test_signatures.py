"""Signatures: made with a key, refused once anything is another than was signed."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kfac_artifacts.errors import FormatError, SettingsError
from kfac_artifacts.hub import Hub, pull, push
from kfac_artifacts.signatures import Identity, check_signature, sign
from tests.commands import bad, good, kfac
from tests.hub.conftest import artifact, hub, impatient, server, write_artifact
from tests.hub.wire import Server

__all__ = ["artifact", "hub", "impatient", "server"]
ISSUER = "https://accounts.google.com"


def keys(folder: Path, name: str, password: str | None = None) -> tuple[Path, Path]:
    """Write a private key and its public one."""
    made = ec.generate_private_key(ec.SECP256R1())
    hidden: s.KeySerializationEncryption = s.NoEncryption()
    if password is not None:
        hidden = s.BestAvailableEncryption(password.encode())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        made.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, hidden)
    )
    public.write_bytes(
        made.public_key().public_bytes(
            s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def signed(artifact: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A signed artifact, and the public key."""
    private, public = keys(tmp_path, "mine")
    sign(artifact, private)
    return artifact, public


def test_a_signed_artifact_is_verified(signed: tuple[Path, Path]) -> None:
    path, public = signed
    assert "signature: signed by the key" in good("verify", path, "--key", public)


def test_the_library_that_signs_verifies_it_alone(signed: tuple[Path, Path]) -> None:
    """And by its rules, not ours: nothing in the bundle is of our own making."""
    from model_signing import verifying

    path, public = signed
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.set_ignore_unsigned_files(True).verify(path, path / "model.sig")
    (path / "factors.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="Hash mismatch"):
        config.verify(path, path / "model.sig")


@pytest.mark.parametrize("file", ["kfac.json", "factors.safetensors"])
def test_a_file_that_changed_is_refused(signed: tuple[Path, Path], file: str) -> None:
    path, public = signed
    (path / file).write_bytes((path / file).read_bytes() + b" ")
    result = kfac("verify", path, "--key", public)
    assert result.exit_code == 3
    assert "Traceback" not in result.output


def test_another_whole_artifact_under_a_signature_is_refused(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its own hashes are right: only the signature tells."""
    path, public = signed
    other = write_artifact(tmp_path / "other", seed=1)
    (path / "model.sig").rename(other / "model.sig")
    assert kfac("verify", other).exit_code == 0
    result = kfac("verify", other, "--key", public)
    assert result.exit_code == 3
    assert "BAD  signature:" in result.output
    assert "Hash mismatch" in result.output


def test_what_a_signature_leaves_out_is_missed(tmp_path: Path, artifact: Path) -> None:
    """The owner's key signed other files of the directory, but not the manifest."""
    from model_signing import hashing, signing

    private, public = keys(tmp_path, "mine")
    left_out = hashing.Config().set_ignored_paths(paths=["kfac.json"])
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(left_out).sign(artifact, artifact / "model.sig")
    with pytest.raises(FormatError, match=r"Extra files found.*kfac\.json"):
        check_signature(artifact, public)


def test_another_key_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = signed
    _, other = keys(tmp_path, "other")
    with pytest.raises(FormatError, match="no signature of this artifact by the key"):
        check_signature(path, other)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"dsseEnvelope": 1}', b"\xff"]
)
def test_what_is_no_signature_is_refused(
    signed: tuple[Path, Path], content: bytes
) -> None:
    path, public = signed
    (path / "model.sig").write_bytes(content)
    with pytest.raises(FormatError, match="is no signature"):
        check_signature(path, public)


def test_an_unsigned_artifact_is_refused_if_a_key_is_asked_for(
    artifact: Path, tmp_path: Path
) -> None:
    _, public = keys(tmp_path, "mine")
    result = kfac("verify", artifact, "--key", public)
    assert result.exit_code == 3
    assert "is not signed" in result.output
    assert kfac("verify", artifact).exit_code == 0


def test_a_damaged_artifact_is_not_signed(artifact: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path, "mine")
    file = artifact / "factors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    bad("sign", artifact, "--key", private, code=3)
    assert not (artifact / "model.sig").exists()


def test_a_card_may_change_and_a_link_leads_to_the_same(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    path, public = signed
    (path / "README.md").write_text("my words")
    (path / "notes.txt").write_text("more words")
    file = (path / "factors.safetensors").rename(tmp_path / "elsewhere")
    (path / "factors.safetensors").symlink_to(file)
    check_signature(path, public)


def test_a_key_with_a_password_wants_it(artifact: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine", "secret")
    for wrong in (None, "other"):
        with pytest.raises(SettingsError, match=r"mine\.pem cannot be used"):
            sign(artifact, private, password=wrong)
    sign(artifact, private, password="secret")
    check_signature(artifact, public)


def test_keys_of_another_kind_are_refused(artifact: Path, tmp_path: Path) -> None:
    made = rsa.generate_private_key(65537, 2048)
    private, public = keys(tmp_path, "mine")
    sign(artifact, private)
    private.write_bytes(
        made.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    )
    assert "curve P-256" in bad("sign", artifact, "--key", private)
    public.write_text("no key")
    assert "give a public key" in bad("verify", artifact, "--key", public)


def test_a_signature_goes_with_its_artifact(
    server: Server, hub: Hub, signed: tuple[Path, Path], tmp_path: Path
) -> None:
    path, public = signed
    for place in ("hf://owner/kfac", str(tmp_path / "registry")):
        pushed = push(path, place, hub=hub)
        copy = tmp_path / f"copy-{len(place)}"
        pull(pushed.reference, copy, hub=hub)
        assert (copy / "model.sig").read_bytes() == (path / "model.sig").read_bytes()
        assert "signed by" in check_signature(copy, public)
        again = tmp_path / f"again-{len(place)}"  # from the cache
        pull(pushed.reference, again, hub=hub)
        check_signature(again, public)


@pytest.mark.parametrize("place", ["hf://owner/kfac", "registry"])
def test_a_signature_stays_with_its_artifact_alone(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path, place: str
) -> None:
    private, public = keys(tmp_path, "mine")
    to = place if "://" in place else str(tmp_path / place)
    push(artifact, to, hub=hub)
    sign(artifact, private)
    assert push(artifact, to, hub=hub).changed  # the signature is new
    assert not push(artifact, to, hub=hub).changed
    (artifact / "model.sig").unlink()
    push(artifact, to, hub=hub)
    pull(to, tmp_path / "same", hub=hub)
    check_signature(tmp_path / "same", public)
    push(write_artifact(tmp_path / "new", seed=1), to, hub=hub)
    pull(to, tmp_path / "other", hub=hub)
    assert not (tmp_path / "other" / "model.sig").exists()


def test_a_signed_artifact_is_still_kfacs_to_replace(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    path, _ = signed
    other = write_artifact(tmp_path / "other", seed=1)
    good("compress", other, "-o", path, "--recipe", "int8", "--force")
    assert not (path / "model.sig").exists()


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """The public Sigstore's trusted root, as its client carries it along."""
    store = files("sigstore").joinpath(
        "_store", "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    )
    parts = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads(store.joinpath("trusted_root.json").read_text()),
        "signingConfig": json.loads(
            store.joinpath("signing_config.v0.2.json").read_text()
        ),
    }
    path = tmp_path / "trust.json"
    path.write_text(json.dumps(parts))
    return path


def test_a_signature_by_a_key_is_none_by_an_identity(
    signed: tuple[Path, Path], trust: Path
) -> None:
    path, _ = signed
    asked = ("--identity", "me@example.org", "--issuer", ISSUER)
    result = kfac("verify", path, *asked, "--trust-config", trust)
    assert result.exit_code == 3
    assert "no signature of this artifact by me@example.org" in result.output
    trust.write_text("{}")
    with pytest.raises(SettingsError, match="no trust configuration"):
        check_signature(path, Identity("me", ISSUER, trust))


def test_options_that_do_not_go_together_are_refused(
    signed: tuple[Path, Path], trust: Path
) -> None:
    path, public = signed
    bad("verify", path, "--identity", "me", code=2)
    bad("verify", path, "--issuer", ISSUER, code=2)
    bad("verify", path, "--key", public, "--trust-config", trust, code=2)
    both = ("--key", public, "--identity", "me", "--issuer", ISSUER)
    bad("verify", path, *both, code=2)
    bad("sign", path, code=2)
    bad("sign", path, "--key", public, "--sigstore", code=2)
    bad("sign", path, "--sigstore", "--ask-password", code=2)


def test_without_the_extra_it_is_said_what_to_install(
    artifact: Path, tmp_path: Path
) -> None:
    private, _ = keys(tmp_path, "mine")
    program = (
        "import sys; sys.modules['model_signing'] = None\n"
        "from kfac_cli.main import main\n"
        f"main(['sign', {str(artifact)!r}, '--key', {str(private)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'kfac-artifacts[sign]'" in done.stderr
