"""The files of an artifact: which they are, and moving them with every byte checked."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from kfac_artifacts.canonical import digest_of
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import (
    SIGNATURE,
    FileInfo,
    dump_json,
    parse_json,
    settled,
    sha256_file,
    write_durably,
)
from kfac_artifacts.hub.kinds import ARTIFACT, TASK_VECTOR, Kind, kind_at
from kfac_artifacts.hub.picture import PICTURE, is_plain_picture
from kfac_artifacts.hub.plain_files import check_plain, read_plain
from kfac_artifacts.places import new_directory

logger = logging.getLogger(__name__)
CARD = "README.md"
ORIGIN = "pulled.json"
COMPANIONS = (CARD, SIGNATURE, PICTURE)
"""What goes with an artifact, if it is there, and no hash of the manifest names."""
MAX_COMPANION_BYTES = 2**20
CHANGED = "{} changed while it was being read; try again"


class DamagedFilesError(FormatError):
    """Files that are not what the manifest says, by name."""

    def __init__(self, directory: Path, names: list[str], kind: Kind) -> None:
        super().__init__(
            f"{', '.join(names)} in {directory} was damaged or changed: the sha256 or "
            f"size is not the one in {kind.manifest}; fetch it again, or ask its owner"
        )
        self.names = names


@dataclass(frozen=True)
class Texts:
    """The small files of an artifact.

    Attributes:
        manifest: The manifest.
        beside: The companions that it has, by name.
    """

    manifest: bytes
    beside: Mapping[str, bytes]


@dataclass(frozen=True)
class Origin:
    """Where a pulled artifact came from; written beside it as ``pulled.json``.

    Attributes:
        source: The address that was asked for.
        reference: The address pinned to what was found there.
        digest: The artifact's digest.
    """

    source: str
    reference: str
    digest: str


def receive(
    source: Path, directory: Path, origin: Origin, *, replace: bool = False
) -> int:
    """Copy an artifact out of a directory, following links of tensor files only.

    Args:
        source: Directory to copy from.
        directory: Where the artifact goes.
        origin: What to write down about where it came from; the digest must be right.
        replace: Whether an artifact that is already there may be replaced.

    Returns:
        Size of its files in bytes.

    Raises:
        DamagedFilesError: If files are not what the manifest says.
        FormatError: If the manifest is not that of the digest, or a link.
    """
    kind = kind_at(source)
    read = partial(_small_files, source, kind.manifest)
    texts = settled(source, kind.manifest, read)
    if digest_in(texts.manifest, source / kind.manifest) != origin.digest:
        raise FormatError(CHANGED.format(source / kind.manifest))
    return publish(source, texts, directory, origin, replace=replace)


def _small_files(directory: Path, own: str) -> Texts:
    """The manifest, and what stands beside it by name."""
    check_plain(directory, (own, *COMPANIONS))
    manifest, beside = read_plain(directory / own), {}
    for name in COMPANIONS:
        with suppress(FileNotFoundError):
            beside[name] = read_plain(directory / name)
    return Texts(manifest, beside)


def publish(
    source: Path,
    texts: Texts,
    directory: Path,
    origin: Origin,
    *,
    replace: bool,
    bring: Callable[[Path, Path, Iterable[str]], None] | None = None,
) -> int:
    """Let an artifact appear whole or not at all; what is checked is what appears.

    Args:
        source: Directory to take the tensor files from.
        texts: The other files.
        directory: Where the artifact goes.
        origin: What to write down about where it came from.
        replace: Whether an artifact that is already there may be replaced.
        bring: How to take the tensor files; None copies them.

    Returns:
        Size of its files in bytes.

    Raises:
        DamagedFilesError: If files are not what the manifest says.
    """
    kind = kind_of(texts.manifest)
    files = kind.files_of(texts.manifest, source / kind.manifest)
    with new_directory(directory, replace=replace) as temporary:
        (bring or copy_files)(source, temporary, files)
        (temporary / kind.manifest).write_bytes(texts.manifest)
        for name, content in _harmless(texts.beside, source).items():
            (temporary / name).write_bytes(content)
        damaged = [n for n, info in files.items() if not _is(temporary / n, info)]
        if damaged:
            raise DamagedFilesError(source, damaged, kind)
        kind.check(temporary)
        write_durably(temporary / ORIGIN, dump_json(asdict(origin)))
    return sum(info.size for info in files.values()) + len(texts.manifest)


def _harmless(beside: Mapping[str, bytes], source: Path) -> Mapping[str, bytes]:
    """Leave out a picture that may do more than be looked at, such as run a script."""
    picture = beside.get(PICTURE)
    if picture is None or is_plain_picture(picture):
        return beside
    logger.warning(
        "%s was left out: it is no picture that kfac drew, and may hold a script",
        source / PICTURE,
    )
    return {name: content for name, content in beside.items() if name != PICTURE}


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the files that exist, their content only."""
    for name in names:
        with suppress(FileNotFoundError):
            shutil.copyfile(source / name, target / name)


def link_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Name those of the files that exist by links to what they lead to."""
    for name in names:
        if (source / name).is_file():
            (target / name).symlink_to((source / name).resolve())


def read_card(directory: Path) -> str | None:
    """The card of an artifact, or None if it has none."""
    check_plain(directory, [CARD])
    card = directory / CARD
    if not card.is_file():
        return None
    return read_plain(card).decode("utf-8", errors="replace")


def read_signature(directory: Path) -> bytes | None:
    """The signature of an artifact, or None if it has none."""
    check_plain(directory, [SIGNATURE])
    with suppress(FileNotFoundError):
        return read_plain(directory / SIGNATURE)
    return None


def read_picture(directory: Path) -> bytes | None:
    """The picture of an artifact, or None if it has none."""
    check_plain(directory, [PICTURE])
    with suppress(FileNotFoundError):
        return read_plain(directory / PICTURE)
    return None


def kind_of(manifest: bytes) -> Kind:
    """Say what a manifest is of; whoever reads it on refuses what is neither."""
    value = parse_json(manifest, "manifest")
    vector = isinstance(value, dict) and value.get("format") == "kfac-task-vector"
    return TASK_VECTOR if vector else ARTIFACT


def digest_in(manifest: bytes, where: Path) -> str:
    """The digest of an artifact, from the text of its manifest.

    Args:
        manifest: The text.
        where: Where it comes from, for the error.

    Returns:
        The digest.

    Raises:
        FormatError: If it is no JSON.
    """
    return digest_of(parse_json(manifest, str(where)))


def digest_at(directory: Path) -> str | None:
    """The digest of the artifact at a place, None if there is none.

    Args:
        directory: The place.

    Returns:
        The digest.

    Raises:
        FormatError: If its manifest is no JSON, or no plain file.
    """
    manifest = directory / kind_at(directory).manifest
    if not manifest.is_file():
        return None
    return digest_in(read_plain(manifest), manifest)


def holds(directory: Path, digest: str) -> bool:
    """Whether exactly this artifact stands at a place, undamaged."""
    try:
        if digest_at(directory) != digest:
            return False
        kind_at(directory).check(directory)
    except FormatError:
        return False
    return True


def _is(file: Path, info: FileInfo) -> bool:
    if not file.is_file() or file.stat().st_size != info.size:
        return False
    return sha256_file(file) == info.sha256
