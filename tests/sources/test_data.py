"""Datasets from real files: tables of text, folders and tables of images."""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from kfac_artifacts.artifact import DataInfo
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.sources import encode_texts, load_examples, load_network
from tests import models

SavedModel = Callable[[str], Path]
TEXTS = ["the cat sits", "a bird sings", 'dog, "good" fish', "NA", "the black fish"]
KINDS = ["cat", "bird", "dog", "None", "cat"]
ROWS = {"text": TEXTS, "kind": KINDS}


@pytest.fixture(scope="module")
def bert(saved_model: SavedModel) -> Network:
    return load_network(str(saved_model("bert")))


@pytest.fixture(scope="module")
def clip(saved_model: SavedModel) -> Network:
    return load_network(str(saved_model("clip")))


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


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_examples(
    tmp_path: Path, bert: Network, ending: str
) -> None:
    data = write_table(tmp_path / f"our [1] data.{ending}", ROWS)
    examples = load_examples(data, bert, text_columns=["text"], label_column="kind")
    assert len(examples) == 5
    assert examples.texts(range(5)) == [(text,) for text in TEXTS]
    assert examples.classes == ["None", "bird", "cat", "dog"]
    assert examples.labels == [2, 1, 3, 0, 2]
    info = examples.info([3, 0])
    lines = f'[3, "NA"]\n[0, "{TEXTS[0]}"]\n'
    assert info.fingerprint == hashlib.sha256(lines.encode()).hexdigest()
    assert (info.id, info.config, info.split) == (f"our [1] data.{ending}", None, None)
    assert (info.examples, info.size) == (2, 5)
    assert info.preprocessing.configuration == {"columns": ["text"], "max_length": 16}


def test_a_batch_is_padded_to_its_longest_text(tmp_path: Path, bert: Network) -> None:
    examples = load_examples(write_table(tmp_path / "a.csv", ROWS), bert)
    batch = examples.batch([1, 3])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 3 + [0] * 2]
    alone = bert(examples.batch([3]))
    torch.testing.assert_close(bert(batch)[1:], alone)


def test_two_columns_are_a_pair_for_the_tokenizer(
    tmp_path: Path, bert: Network
) -> None:
    columns = {"a": ["the cat", "a"], "b": ["dog", "red fish"]}
    data = write_table(tmp_path / "pairs.jsonl", columns)
    examples = load_examples(data, bert, text_columns=("b", "a"))
    words = ["<s>", "red", "fish", "</s>", "a", "</s>"]
    expected = [models.VOCABULARY[word] for word in words]
    assert examples.batch([1])["input_ids"].tolist() == [expected]


def test_texts_are_cut_off_and_the_cut_is_recorded(
    tmp_path: Path, bert: Network
) -> None:
    data = write_table(tmp_path / "a.csv", {"text": ["the cat " * 20, "a dog"]})
    assert load_examples(data, bert).batch([0])["input_ids"].shape == (1, 16)
    examples = load_examples(data, bert, max_length=6)
    assert examples.batch([0, 1])["input_ids"].shape == (2, 6)
    assert examples.info([0]).preprocessing.configuration["max_length"] == 6
    with pytest.raises(SourceError, match="max_length 17 is not within 1 and the 16"):
        load_examples(data, bert, max_length=17)


def test_a_tokenizer_without_padding_pads_with_the_end_token(
    tmp_path: Path, saved_model: SavedModel
) -> None:
    gpt2 = load_network(str(saved_model("gpt2")))
    examples = load_examples(write_table(tmp_path / "a.csv", ROWS), gpt2)
    batch = examples.batch([0, 3])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    torch.testing.assert_close(gpt2(batch)[1:], gpt2(examples.batch([3])))


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"text": TEXTS, "number": [1, 2, 3, 4, 5]}, "text"),
        ({"title": TEXTS, "Sentence": TEXTS}, "Sentence"),
        ({"question": TEXTS, "text": TEXTS, "label": KINDS}, "text"),
    ],
)
def test_a_column_of_texts_is_found_by_its_usual_name(
    tmp_path: Path, bert: Network, columns: dict[str, list[object]], chosen: str
) -> None:
    data = write_table(tmp_path / "a.csv", columns)
    label = "label" if "label" in columns else None
    assert load_examples(data, bert, label_column=label).columns == (chosen,)


def test_number_labels_are_sorted_as_numbers(tmp_path: Path, bert: Network) -> None:
    data = write_table(tmp_path / "a.csv", {"text": TEXTS, "star": [10, 9, 2, 9, 10]})
    examples = load_examples(data, bert, label_column="star")
    assert examples.classes == ["2", "9", "10"]
    assert examples.labels == [2, 1, 0, 1, 2]


def test_declared_class_names_are_kept_in_their_order(
    tmp_path: Path, bert: Network
) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["z", "a"])
    )
    table = datasets.Dataset.from_dict(
        {"text": ["a", "the"], "label": [1, 0]}, features=features
    )
    table.to_parquet(tmp_path / "a.parquet")
    examples = load_examples(str(tmp_path / "a.parquet"), bert, label_column="label")
    assert (examples.classes, examples.labels) == (["z", "a"], [1, 0])


def test_classes_of_the_training_set_number_the_test_set(
    tmp_path: Path, bert: Network
) -> None:
    data = write_table(
        tmp_path / "test.csv", {"text": ["a", "the"], "kind": ["y", "x"]}
    )
    examples = load_examples(data, bert, label_column="kind", classes=["w", "x", "y"])
    assert examples.labels == [2, 1]
    with pytest.raises(
        SourceError,
        match=r"has 1 class.* not known, in 1 row \(line 2\); known are x",
    ):
        load_examples(data, bert, label_column="kind", classes=["x"])


def test_examples_without_labels_have_none(tmp_path: Path, bert: Network) -> None:
    examples: LabelledExamples = load_examples(
        write_table(tmp_path / "a.csv", {"text": TEXTS}), bert
    )
    assert not examples.labels
    assert not examples.classes


def test_the_users_cache_is_not_needed(
    tmp_path: Path, bert: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    examples = load_examples(write_table(tmp_path / "a.csv", ROWS), bert)
    assert len(examples.batch([0, 1])["input_ids"]) == 2
    assert not cache.exists()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            ROWS,
            {"text_columns": ["body"]},
            "no column 'body' .--text-column.; columns are text, kind",
        ),
        (
            ROWS,
            {"label_column": "class"},
            "no column 'class' .--label-column.; columns are text, kind",
        ),
        (
            {"n": [1, 2]},
            {"text_columns": ["n"]},
            "column 'n' holds numbers .line 1., not texts",
        ),
        ({"n": [1, 2]}, {}, "which column holds the texts.*columns are n"),
        ({"a": TEXTS, "b": TEXTS}, {}, "which column .* are a, b"),
        (ROWS, {"text_columns": ["text"] * 3}, "not 3 columns"),
        (ROWS, {"split": "test"}, r"a\.jsonl is one file: it has no split 'test'"),
        (
            {"text": ["a", " ", None]},
            {},
            "column 'text' has no text in 2 rows: lines 2, 3; remove",
        ),
        (
            {"text": ["a", "the"], "kind": ["x", None]},
            {"text_columns": ["text"], "label_column": "kind"},
            "column 'kind' has no label in 1 row: line 2; remove",
        ),
        ({"text": ["a"]}, {}, r"a\.jsonl has 1 example\(s\); at least 2 are needed"),
        ({"text": []}, {}, r"a\.jsonl is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path,
    bert: Network,
    columns: dict[str, list[object]],
    options: dict[str, object],
    message: str,
) -> None:
    data = write_table(tmp_path / "a.jsonl", columns)
    with pytest.raises(SourceError, match=message) as caught:
        load_examples(data, bert, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"text,label\n", r"a\.csv is empty"),
        (
            "a.csv",
            b"text\n\xff\xfe\n",
            r"a\.csv is not in utf-8: line 2 .* 0xff; name .*--encoding",
        ),
        ("a.csv", b'text,b\na,b\na,b,c,d\n"', r"a\.csv: a quote .* in line 4"),
        ("a.jsonl", b'{"text": "a"\n', r"a\.jsonl: line 1 is no JSON: .* character 13"),
        ("a.parquet", b"nothing", r"a\.parquet cannot be read: Parquet"),
        ("a.txt", b"text", r"a\.txt is no table; known endings are \.csv"),
    ],
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, bert: Network, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        load_examples(str(tmp_path / name), bert)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no/such/file.csv", "no file or folder 'no/such/file.csv'"),
        ("missing.jsonl", "no file or folder 'missing.jsonl'"),
        ("no-such-org-xyz/no-such-set", "is not here|is neither here nor a dataset"),
    ],
)
def test_data_that_are_nowhere_are_said(bert: Network, data: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_examples(data, bert)


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


def test_a_model_without_its_processor_is_said(tmp_path: Path) -> None:
    models.tiny_bert().save_pretrained(tmp_path / "bare")
    network = load_network(str(tmp_path / "bare"))
    data = write_table(tmp_path / "a.csv", ROWS)
    with pytest.raises(SourceError, match="bare has no tokenizer"):
        load_examples(data, network)
    models.tiny_vit().save_pretrained(tmp_path / "blind")
    network = load_network(str(tmp_path / "blind"))
    with pytest.raises(SourceError, match="blind has no image processor"):
        load_examples(write_images(tmp_path / "pets"), network)


def test_texts_are_encoded_by_the_tower_beside_the_image_tower(clip: Network) -> None:
    texts = ["a cat", "the black dog", "fish"]
    outputs = encode_texts(clip, texts, batch_size=2)
    tokens = models.tiny_tokenizer("<s> $A </s>")(
        texts, padding=True, return_tensors="pt"
    )
    images = models.image_batch()
    expected = clip.module(**tokens, **images)
    torch.testing.assert_close(outputs, expected.text_embeds)
    assert not outputs.requires_grad


def test_texts_are_encoded_by_a_text_network_itself(
    tmp_path: Path, bert: Network
) -> None:
    examples = load_examples(write_table(tmp_path / "a.csv", ROWS), bert)
    torch.testing.assert_close(
        encode_texts(bert, TEXTS), bert(examples.batch(range(5)))
    )


def test_a_network_of_images_alone_encodes_no_texts(saved_model: SavedModel) -> None:
    vit = load_network(str(saved_model("vit")))
    with pytest.raises(SourceError, match="vit cannot read texts"):
        encode_texts(vit, ["a cat"])


def _as_json(info: DataInfo) -> object:
    configuration = dict(info.preprocessing.configuration)
    return [info.id, info.config, info.split, info.fingerprint, configuration]
