"""The classifier that a checkpoint has itself, against the whole model."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_examples, load_network, make_head
from kfac_artifacts.sources.traced_layers import TracedLayers
from kfac_artifacts.task_vector import LayeredHead, LinearHead, load_head, save_head
from tests.commands import bad, good
from tests.each import for_each
from tests.models import IMAGE_SIZE, SavedModel, tiny_tokenizer
from tests.sources import families

LABELS = {"id2label": {0: "dog", 1: "cat", 2: "bird"}, "num_labels": 3}
TEXTS = [("the dog runs", "dog"), ("a cat sits", "cat"), ("a white bird", "bird")] * 3


def saved(path: Path, name: str, spread: float | None = None) -> Path:
    model = families.build(name, **LABELS)
    families.save(path, model if spread is None else drawn(model, spread))
    tiny_tokenizer("<s> $A </s>").save_pretrained(path)
    return path


def drawn(model: nn.Module, spread: float) -> nn.Module:
    """Draw the parameters around zero, so that nothing is saturated."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def written(place: Path) -> Path:
    rows = [f"{text},{label}" for text, label in TEXTS]
    (place / "data.csv").write_text("\n".join(["text,label", *rows, ""]))
    return place / "data.csv"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path)


def test_layers_are_seen_however_their_input_is_handed_over() -> None:
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    with TracedLayers() as traced:
        z = functional.linear(input=x, weight=weight)
        functional.gelu(input=functional.layer_norm(input=z, normalized_shape=(4,)))
    kinds = [layer.info.kind for layer in traced.layers]
    assert kinds == ["linear", "layer-norm", "gelu"]
    assert traced.layers[0].weight is weight


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


BEHIND = {
    "BertForSequenceClassification": "cls-raw: linear tanh linear",
    "RobertaForSequenceClassification": "cls-raw: linear tanh linear",
    "DistilBertForSequenceClassification": "cls-raw: linear relu linear",
    "ElectraForSequenceClassification": "cls-raw: linear gelu linear",
    "DebertaV2ForSequenceClassification": "cls-raw: linear gelu linear",
    "ModernBertForSequenceClassification": "cls-raw: linear gelu layer-norm linear",
    "Qwen3ForSequenceClassification": "last-token-raw: linear",
    "GPT2ForSequenceClassification": "last-token-raw: linear",
}
"""What is behind the encoder: an output map, and layers."""


@for_each(BEHIND)
def test_all_layers_behind_the_encoder_are_the_head(name: str) -> None:
    output_map, kinds = BEHIND[name].split(": ")
    with TemporaryDirectory() as place:
        path = saved(Path(place) / "model", name, spread=0.3)
        data = written(Path(place))
        network = load_network(str(path), output_map=output_map, device="cpu")
        examples = load_examples(data, network, label_column="label")
        head = make_head(network, examples, "own")
        save_head(Path(place) / "head", head)
        kept, _ = load_head(Path(place) / "head")
        whole = families.reload(path, families.build(name, **LABELS))[0]
    batch = examples.batch(range(9))
    expected = whole(**batch).logits
    for each in (head, kept):
        torch.testing.assert_close(each.logits(network(batch)), expected)
    if isinstance(head, LayeredHead):
        assert [layer.info.kind for layer in head.layers] == kinds.split()
    else:
        assert isinstance(head, LinearHead)
        assert kinds == "linear"


@pytest.mark.parametrize(
    ("name", "output_map"),
    [
        ("ViTForImageClassification", "cls-raw"),
        ("Dinov2ForImageClassification", "cls-patches-raw"),
        ("Dinov2WithRegistersForImageClassification", "cls-patches-raw"),
    ],
)
def test_images_are_classified_by_what_the_checkpoint_takes_of_them(
    tmp_path: Path, name: str, output_map: str
) -> None:
    from PIL import Image

    model = drawn(families.build(name, **LABELS), 0.3)
    path = families.save(tmp_path / "model", model)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ViTImageProcessorPil(size=size).save_pretrained(path)
    noise = torch.Generator().manual_seed(0)
    for label in ("dog", "cat"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(256, (8, 8, 3), generator=noise).to(torch.uint8)
            image = Image.fromarray(pixels.numpy())
            image.save(tmp_path / f"photos/{label}/{i}.png")
    network = load_network(str(path), output_map=output_map, device="cpu")
    examples = load_examples(tmp_path / "photos", network, label_column="label")
    head = make_head(network, examples, "own")
    assert isinstance(head, LinearHead)
    assert head.targets(examples).tolist() == [1, 1, 0, 0]
    batch = examples.batch(range(4))
    expected = families.reload(path, model)[0](**batch).logits
    torch.testing.assert_close(head.logits(network(batch)), expected)
    pooled = load_network(str(path), output_map="mean-pool-raw", device="cpu")
    with pytest.raises(SourceError, match=f"give --output-map {output_map}"):
        make_head(pooled, examples, "own")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertForSequenceClassification", "give --output-map pooler-raw"),
        ("RobertaForSequenceClassification", "give --output-map cls-raw"),
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


def test_an_activation_that_no_head_has_is_refused(tmp_path: Path, data: Path) -> None:
    options = LABELS | {"pooler_hidden_act": "laplace"}
    model = families.build("DebertaV2ForSequenceClassification", **options)
    path = families.save(tmp_path / "model", drawn(model, 0.3))
    tiny_tokenizer("<s> $A </s>").save_pretrained(path)
    network = load_network(str(path), output_map="cls-raw", device="cpu")
    examples = load_examples(data, network, label_column="label")
    with pytest.raises(SourceError, match="nor on those of any output map"):
        make_head(network, examples, "own")


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_what_chooses_no_class_is_refused(
    tmp_path: Path, data: Path, kind: str
) -> None:
    options = LABELS | {"problem_type": kind}
    path = families.save(
        tmp_path / "model", families.build("BertForSequenceClassification", **options)
    )
    tiny_tokenizer("<s> $A </s>").save_pretrained(path)
    network = load_network(str(path), output_map="pooler-raw", device="cpu")
    examples = load_examples(data, network, label_column="label")
    with pytest.raises(SourceError, match=rf"\({kind}\) does not choose one class"):
        make_head(network, examples, "own")


@pytest.mark.parametrize(
    ("name", "output_map"),
    [
        ("BertForSequenceClassification", "pooler-raw"),
        ("RobertaForSequenceClassification", "cls-raw"),
    ],
)
def test_the_model_that_is_applied_predicts_what_kfac_does(
    tmp_path: Path, data: Path, name: str, output_map: str
) -> None:
    model, tau, out = (tmp_path / each for each in ("model", "tau", "out"))
    saved(model, name, spread=0.3)
    mapped = ("--output-map", output_map, "--device", "cpu")
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
