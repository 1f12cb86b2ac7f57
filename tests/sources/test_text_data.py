"""Texts from real files: tables of every kind, classes, and encodings of texts."""

import hashlib
from pathlib import Path

import datasets
import pytest
import torch

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.sources import encode_texts, load_examples, load_network
from tests import models
from tests.models import SavedModel
from tests.sources.written import KINDS, ROWS, TEXTS, write_table


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
