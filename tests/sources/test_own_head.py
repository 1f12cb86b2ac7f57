"""The classifier that a checkpoint has itself, against the whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_examples, load_network, make_head
from kfac_artifacts.task_vector import LinearHead
from tests.commands import bad, good
from tests.models import IMAGE_SIZE, SavedModel, tiny_tokenizer
from tests.sources import families

LABELS = {"id2label": {0: "dog", 1: "cat", 2: "bird"}, "num_labels": 3}
TEXTS = [("the dog runs", "dog"), ("a cat sits", "cat"), ("a white bird", "bird")] * 3


def saved(path: Path, name: str) -> Path:
    families.save(path, families.build(name, **LABELS))
    tiny_tokenizer("<s> $A </s>").save_pretrained(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [f"{text},{label}" for text, label in TEXTS]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows, ""]))
    return tmp_path / "data.csv"


def test_the_head_gives_the_logits_of_the_whole_model(
    tmp_path: Path, data: Path
) -> None:
    name = "BertForSequenceClassification"
    path = saved(tmp_path / "model", name)
    network = load_network(str(path), output_map="pooler-raw", device="cpu")
    examples = load_examples(data, network, label_column="label")
    head = make_head(network, examples, "own")
    assert head.classes == ("dog", "cat", "bird")
    batch = examples.batch(range(9))
    expected = families.reload(path, families.build(name, **LABELS))[0](**batch).logits
    torch.testing.assert_close(head.logits(network(batch)), expected)


def test_images_are_classified_by_the_class_token(tmp_path: Path) -> None:
    from PIL import Image

    path = families.save(
        tmp_path / "model", families.build("ViTForImageClassification", **LABELS)
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ViTImageProcessorPil(size=size).save_pretrained(path)
    for label in ("dog", "cat"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (9 * i, 80, 3)).save(
                tmp_path / f"photos/{label}/{i}.png"
            )
    network = load_network(str(path), output_map="cls-raw", device="cpu")
    examples = load_examples(tmp_path / "photos", network, label_column="label")
    head = make_head(network, examples, "own")
    assert isinstance(head, LinearHead)
    assert head.targets(examples).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertForSequenceClassification", "give --output-map pooler-raw"),
        ("RobertaForSequenceClassification", "nor on those of any output map"),
        ("BertForMaskedLM", "saved as BertForMaskedLM, without a classifier"),
    ],
)
def test_another_classifier_is_refused_and_it_is_said_what_to_do(
    tmp_path: Path, data: Path, name: str, message: str
) -> None:
    network = load_network(str(saved(tmp_path / "model", name)), device="cpu")
    examples = load_examples(data, network, label_column="label")
    with pytest.raises(SourceError, match=message):
        make_head(network, examples, "own")


def test_the_model_that_is_applied_predicts_what_kfac_does(
    tmp_path: Path, data: Path
) -> None:
    name = "BertForSequenceClassification"
    model, tau, out = (tmp_path / each for each in ("model", "tau", "out"))
    saved(model, name)
    mapped = ("--output-map", "pooler-raw", "--device", "cpu")
    steps = ("--steps", 4, "--lr", 0.01, "--batch-size", 4)
    good("train", model, data, "-o", tau, "--head", "own", *mapped, *steps)
    good("apply", model, tau, "-o", out)
    found = good("predict", out, data, "--json")  # the head knows its output map
    rows = json.loads(found)["rows"]
    whole = families.reload(out, families.build(name, **LABELS))[0]
    batch: Any = tiny_tokenizer("<s> $A </s>")([t for t, _ in TEXTS], padding=True)
    inputs = {k: torch.tensor(batch[k]) for k in ("input_ids", "attention_mask")}
    probabilities = whole(**inputs).logits.detach().softmax(-1)
    for row, expected in zip(rows, probabilities, strict=True):
        assert row["class"] == LABELS["id2label"][int(expected.argmax())]
        assert row["probability"] == pytest.approx(float(expected.max()), rel=1e-3)


def test_a_head_of_ones_own_goes_with_no_texts(
    tmp_path: Path, data: Path, saved_model: SavedModel
) -> None:
    words = ("train", saved_model("bert"), data, "-o", tmp_path / "tau", "--steps", 1)
    assert "without a classifier" in bad(*words, "--head", "own")
    assert "for cosines" in bad(*words, "--head", "own", "--logit-scale", 2)
