"""Datasets by Hub id, local table or folder of images."""

import glob
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.columns import image_column as find_image_column
from kfac_artifacts.sources.columns import read_labels
from kfac_artifacts.sources.columns import text_columns as find_text_columns
from kfac_artifacts.sources.encode import load_image_encoder, load_text_encoder
from kfac_artifacts.sources.examples import Description, ImageExamples, TextExamples
from kfac_artifacts.sources.hub import download
from kfac_artifacts.sources.output_maps import inputs
from kfac_artifacts.sources.quiet import quiet

# pandas would read words such as "NA" and "None" as missing
_CSV: dict[str, Any] = {"keep_default_na": False}
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", _CSV),
    ".tsv": ("csv", _CSV | {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
IMAGES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
HUB_ID = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^:/]+))?")
FEWEST_EXAMPLES = 2  # of one example there is no mean to speak of


@dataclass(frozen=True)
class _Opened:
    rows: Any
    description: Description
    folder: Path = Path()


def load_examples(
    data: str | Path,
    network: Network,
    *,
    split: str | None = None,
    text_columns: Sequence[str] = (),
    image_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] = (),
    max_length: int | None = None,
) -> TextExamples | ImageExamples:
    """Open a dataset, and encode it for a network when a batch is asked for.

    Args:
        data: A csv, tsv, json, jsonl or parquet file; a folder of images, with a
            subfolder per class if there are labels; or a ``datasets`` Hub id, with
            ``:configuration`` behind it if it has several.
        network: A network whose module was loaded by ``from_pretrained``.
        split: Split of a Hub dataset or an image folder; None for ``train``, or the
            only one.
        text_columns: One column of texts, or two that form a pair; none for the
            obvious one.
        image_column: Column of images; None for the obvious one.
        label_column: Column of classes; None if labels are not needed.
        classes: Names of all classes in order, for example those of the training set;
            none for the ones found, sorted.
        max_length: Tokens after which a text is cut off; None for what the model can
            take, but at most 512.

    Returns:
        The examples. Without a label column their ``labels`` are empty.

    Raises:
        SourceError: If the data cannot be found or read, or do not fit the network.
    """
    opened = _open(str(data), split)
    rows = opened.rows
    if len(rows) < FEWEST_EXAMPLES:
        raise SourceError(
            f"{opened.description.id} has {len(rows)} example(s); at least "
            f"{FEWEST_EXAMPLES} are needed, because what is computed from one alone "
            "would show it"
        )
    labels = read_labels(rows, label_column, classes)
    argument = inputs(network.module, network.output_map.info.name)
    if argument == "input_ids":
        columns = find_text_columns(rows.features, text_columns, label_column)
        encoder = load_text_encoder(network, max_length)
        return TextExamples(rows, columns, encoder, opened.description, labels)
    if argument == "pixel_values":
        column = find_image_column(rows.features, image_column)
        images = load_image_encoder(network)
        return ImageExamples(
            rows, column, images, opened.description, labels, opened.folder
        )
    raise SourceError(f"{network.id} takes {argument}; only text and images are known")


def _open(data: str, split: str | None) -> _Opened:
    path = Path(data).expanduser()
    if path.is_file():
        return _open_table(path, split)
    if path.is_dir():
        return _open_folder(path, split)
    name = HUB_ID.fullmatch(data)
    if name is None or path.suffix.lower() in READERS:
        raise SourceError(f"there is no file or folder {data!r}")
    return _open_hub(name["id"], name["config"], split)


def _open_table(path: Path, split: str | None) -> _Opened:
    if path.suffix.lower() not in READERS:
        raise SourceError(
            f"{path.name} is no table; known endings are {', '.join(READERS)}"
        )
    if split is not None:
        raise SourceError(f"{path.name} is one file: it has no split {split!r}")
    reader, options = READERS[path.suffix.lower()]
    with tempfile.TemporaryDirectory() as cache:  # not in the user's cache: it is here
        loaded = _load(
            path.name,
            reader,
            data_files=glob.escape(str(path.absolute())),
            cache_dir=cache,
            keep_in_memory=True,
            **options,
        )
    return _Opened(loaded["train"], Description(path.name), path.parent)


def _open_folder(path: Path, split: str | None) -> _Opened:
    if split is None and (path / "train").is_dir():
        split = "train"
    root = path if split is None else path / split
    if not root.is_dir():
        found = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise SourceError(
            f"{path.name} has no split {split!r}; its folders are "
            f"{', '.join(found) or 'none'}"
        )
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in IMAGES)
    if not files:
        raise SourceError(f"there are no images in the folder {root.name}")
    names = [str(file.relative_to(root)) for file in files]
    table = {"image": names}
    if all(file.parent != root for file in files):
        table["label"] = [file.relative_to(root).parts[0] for file in files]
    rows = datasets.Dataset.from_dict(table)
    return _Opened(rows, Description(path.resolve().name, None, split), root)


def _open_hub(name: str, config: str | None, split: str | None) -> _Opened:
    # load_dataset would try for half a minute before it says that nothing is there
    download("dataset", name, None, ["README.md"])
    loaded = _load(name, name, config)
    splits = list(loaded)
    chosen = split or ("train" if "train" in splits else splits[0])
    if chosen not in splits or (split is None and chosen != "train" and splits[1:]):
        raise SourceError(
            f"{name} has no split {split or 'train'!r}; choose one of "
            f"{', '.join(splits)}"
        )
    return _Opened(loaded[chosen], Description(name, config, chosen))


def _load(name: str, *arguments: Any, **options: Any) -> Any:
    try:
        with quiet():
            return datasets.load_dataset(*arguments, **options)
    except (OSError, ValueError, StopIteration, DatasetsError) as error:
        if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
            raise SourceError(f"{name} is empty") from error
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise SourceError(f"{name} cannot be read: {reason}") from error
