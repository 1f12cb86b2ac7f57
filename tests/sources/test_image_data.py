"""Images from real files: in folders, in tables, and beside them."""

import hashlib
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from kfac_artifacts.artifact import DataInfo
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_examples, load_network
from tests.models import SavedModel
from tests.sources.written import write_images, write_table


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_folder_of_images_has_a_class_per_subfolder(
    tmp_path: Path, saved_model: SavedModel, kind: str
) -> None:
    network = load_network(str(saved_model(kind)))
    data = write_images(tmp_path / "pets")
    examples = load_examples(data, network, label_column="label")
    assert examples.classes == ["cat", "dog", "test"]
    assert examples.labels == [0, 0, 1, 1, 2, 2]
    assert [image.size for image in examples.images([1, 5])] == [(10, 12), (10, 14)]
    assert examples.batch([4, 0])["pixel_values"].shape == (2, 3, 8, 8)
    assert network(examples.batch([4, 0])).shape[0] == 2


def test_the_fingerprint_of_images_is_that_of_their_pixels(
    tmp_path: Path, clip: Network
) -> None:
    examples = load_examples(write_images(tmp_path / "pets"), clip)
    info = examples.info([3])
    with Image.open(tmp_path / "pets" / "dog" / "1.png") as image:
        pixels = image.convert("RGB").tobytes()
    expected = hashlib.sha256(b"[3, 10, 13]\n" + pixels).hexdigest()
    assert (info.id, info.fingerprint, info.size) == ("pets", expected, 6)
    assert info.preprocessing.configuration["size"] == {"shortest_edge": 8}
    assert str(tmp_path) not in json.dumps(_as_json(info))


def test_images_in_a_parquet_table_are_those_in_the_folder(
    tmp_path: Path, clip: Network
) -> None:
    folder = load_examples(write_images(tmp_path / "pets"), clip)
    paths = [str(path) for path in sorted((tmp_path / "pets").rglob("*.png"))]
    features = datasets.Features(picture=datasets.Image())
    table = datasets.Dataset.from_dict({"picture": paths}, features=features)
    table.to_parquet(tmp_path / "pets.parquet")
    inside = load_examples(str(tmp_path / "pets.parquet"), clip)
    assert inside.column == "picture"
    assert inside.info([2, 4]).fingerprint == folder.info([2, 4]).fingerprint


def test_a_table_may_name_image_files_beside_it(tmp_path: Path, clip: Network) -> None:
    folder = load_examples(write_images(tmp_path / "pets"), clip)
    columns = {"file": ["pets/cat/0.png", "pets/cat/1.png"], "kind": ["x", "y"]}
    data = write_table(tmp_path / "pets.csv", columns)
    named = load_examples(data, clip, image_column="file")
    assert named.info([0, 1]).fingerprint == folder.info([0, 1]).fingerprint


def test_the_splits_of_an_image_folder_are_its_subfolders(
    tmp_path: Path, clip: Network
) -> None:
    write_images(tmp_path / "pets" / "train", ["cat", "dog"])
    write_images(tmp_path / "pets" / "test", ["cat"])
    data = str(tmp_path / "pets")
    assert len(load_examples(data, clip)) == 4
    assert load_examples(data, clip).info([0]).split == "train"
    assert len(load_examples(data, clip, split="test")) == 2
    with pytest.raises(
        SourceError, match="no split 'valid'; its folders are test, train"
    ):
        load_examples(data, clip, split="valid")


def test_what_a_folder_leaves_out_is_said_once(
    tmp_path: Path, clip: Network, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_images(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "._0.png").write_bytes(b"x")
    (tmp_path / "pets" / "new").mkdir()
    assert load_examples(data, clip, label_column="label").classes == [
        "cat",
        "dog",
        "test",
    ]
    said = (
        "pets: 6 images read (left out: 1 hidden, no images in new), labels of 'label' "
        "(3 classes)"
    )
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_stray_image_stops_who_asks_for_labels(tmp_path: Path, clip: Network) -> None:
    data = write_images(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "0.png").rename(tmp_path / "pets" / "stray.png")
    with pytest.raises(SourceError, match=r"1 image \(stray\.png\) beside the folders"):
        load_examples(data, clip, label_column="label")
    assert not load_examples(data, clip).labels


def test_an_unreadable_image_is_named(tmp_path: Path, clip: Network) -> None:
    data = write_images(tmp_path / "pets")
    damaged = tmp_path / "pets" / "dog" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:80])
    examples = load_examples(data, clip)
    message = r"pets: image 2 \(dog/0\.png\) cannot be read"
    with pytest.raises(SourceError, match=message) as caught:
        examples.batch([0, 2])
    assert "\n" not in str(caught.value)


def test_a_folder_or_table_without_images_is_said(
    tmp_path: Path, clip: Network
) -> None:
    with pytest.raises(SourceError, match="there are no images in the folder"):
        load_examples(str(tmp_path), clip)
    data = write_table(tmp_path / "a.jsonl", {"text": ["a", "b"], "n": [1, 2]})
    with pytest.raises(SourceError, match=r"holds the images.* are text, n"):
        load_examples(data, clip)
    with pytest.raises(SourceError, match="column 'n' holds neither images nor paths"):
        load_examples(data, clip, image_column="n")


def _as_json(info: DataInfo) -> object:
    configuration = dict(info.preprocessing.configuration)
    return [info.id, info.config, info.split, info.fingerprint, configuration]
