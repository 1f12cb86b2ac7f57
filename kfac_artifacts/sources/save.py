"""Writing a network back as an ordinary model directory."""

import json
import shutil
from pathlib import Path
from typing import Any

from kfac_artifacts.format.files import dump_json, write_durably
from kfac_artifacts.network import Network
from kfac_artifacts.places import (
    APPLIED_FORMAT,
    APPLIED_MARKER,
    contents_of,
    new_directory,
)
from kfac_artifacts.sources.quiet import quiet

COPIED = frozenset({".jinja", ".json", ".model", ".txt"})
WEIGHTS_INDEX = ".index.json"


def save_model(
    network: Network, source: Path, path: str | Path, *, replace: bool = False
) -> None:
    """Write a directory that ``transformers`` loads, whole or not at all.

    Tokenizer, processor and the like are copied from where the network came from; of
    ``sentence-transformers`` also the modules behind the encoder, weights included.

    Args:
        network: A network of a ``transformers`` model.
        source: The directory that it was loaded from.
        path: The directory to write.
        replace: Whether what this package wrote there may be replaced.

    Raises:
        PlaceError: If the place is taken or cannot be written.
    """
    module: Any = network.module
    with new_directory(path, replace=replace) as directory:
        for file in _kept(source):
            target = directory / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        for folder in _modules(source):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        with quiet():
            module.save_pretrained(directory)
        marker = {"format": APPLIED_FORMAT, "files": contents_of(directory)}
        write_durably(directory / APPLIED_MARKER, dump_json(marker))


def _kept(source: Path) -> list[Path]:
    """Small files at the top, and everything of the modules behind the encoder."""
    files = [
        f for f in source.iterdir() if f.suffix in COPIED and f.name != APPLIED_MARKER
    ]
    kept = [f for f in files if not f.name.endswith(WEIGHTS_INDEX)]
    for folder in _modules(source):
        kept += [f for f in (source / folder).rglob("*") if _is_safe(f)]
    return sorted(f for f in kept if f.is_file())


def _is_safe(file: Path) -> bool:
    return file.suffix in COPIED | {".safetensors"}


def _modules(source: Path) -> list[str]:
    """Folders of the modules behind the encoder, as ``modules.json`` names them."""
    listing = source / "modules.json"
    if not listing.is_file():
        return []
    folders = [module["path"] for module in json.loads(listing.read_text("utf-8"))]
    # a folder is one plain name, so nothing outside the directory is read or written
    return [f for f in folders if f and Path(f).name == f and (source / f).is_dir()]
