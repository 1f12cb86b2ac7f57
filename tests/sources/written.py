"""Tables and folders of images, written for a test."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
from PIL import Image

TEXTS = ["the cat sits", "a bird sings", 'dog, "good" fish', "NA", "the black fish"]
KINDS = ["cat", "bird", "dog", "None", "cat"]
ROWS = {"text": TEXTS, "kind": KINDS}


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> str:
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    if path.suffix == ".parquet":
        datasets.Dataset.from_dict(dict(columns)).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def write_images(root: Path, classes: Sequence[str] = ("cat", "dog", "test")) -> str:
    draw = random.Random(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(2):
            size = (9 + i, 12 + number)
            image = Image.frombytes("RGB", size, draw.randbytes(size[0] * size[1] * 3))
            image.save(root / name / f"{i}.png")
    return str(root)
