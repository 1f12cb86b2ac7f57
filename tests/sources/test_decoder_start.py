"""Encoder-decoders that answer by the first token, against the whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts.errors import SettingsError, SourceError
from kfac_artifacts.network import TensorExamples
from kfac_artifacts.sources import load_examples, load_network, make_head
from kfac_artifacts.task_vector import LinearHead
from tests.brute_force import EXACT, check_against_brute_force
from tests.commands import bad, good
from tests.computed import compute
from tests.language.heads import network_of
from tests.models import VOCABULARY, text_batch, tiny_tokenizer
from tests.sources import families

NAME, MAP = "T5ForConditionalGeneration", "decoder-start-raw"
COLUMNS = ("--text-column", "premise", "--text-column", "hypothesis")
PAIRS = [("the dog runs", "a dog"), ("a cat sits", "the cat"), ("red bird", "it")] * 4
LABELS = ["good", "black"] * 6


def saved(place: Path, **options: Any) -> Path:
    """A T5 whose answers are not all the same, with a tokenizer."""
    model: Any = families.build(NAME, decoder_start_token_id=0, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    families.save(place / "model", model)
    tiny_tokenizer("$A </s>").save_pretrained(place / "model")
    rows = [f"{a},{b},{c}" for (a, b), c in zip(PAIRS, LABELS, strict=True)]
    table = "\n".join(["premise,hypothesis,label", *rows, ""])
    (place / "pairs.csv").write_text(table)
    return place / "model"


def first_logits(path: Path, batch: dict[str, Tensor], words: list[str]) -> Tensor:
    """What the whole model gives for words as the first token that it writes."""
    model: Any = families.reload(path, families.build(NAME))[0]
    start = torch.zeros(len(batch["input_ids"]), 1, dtype=torch.long)
    logits: Tensor = model(**batch, decoder_input_ids=start).logits[:, 0]
    return logits[:, [VOCABULARY[word] for word in words]].detach()


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_gives_the_logits_of_the_first_token(
    tmp_path: Path, tied: bool
) -> None:
    path = saved(tmp_path, tie_word_embeddings=tied)
    network = load_network(str(path), output_map=MAP, device="cpu")
    examples = load_examples(
        tmp_path / "pairs.csv",
        network,
        text_columns=("premise", "hypothesis"),
        label_column="label",
    )
    head = make_head(network, examples)
    assert isinstance(head, LinearHead)
    assert head.classes == ("black", "good")
    batch = examples.batch(range(6))
    assert set(batch) == {"input_ids", "attention_mask"}
    expected = first_logits(path, batch, ["black", "good"])
    torch.testing.assert_close(head.logits(network(batch)), expected)
    other = make_head(network, examples, "texts", template="the {}", texts=["it", "is"])
    expected = first_logits(path, batch, ["it", "is"])
    torch.testing.assert_close(other.logits(network(batch)), expected)


def test_texts_that_begin_alike_are_refused(tmp_path: Path) -> None:
    network = load_network(str(saved(tmp_path)), output_map=MAP, device="cpu")
    examples = load_examples(
        tmp_path / "pairs.csv", network, text_columns="premise", label_column="label"
    )
    with pytest.raises(SourceError, match="'the black' of a class begins with no"):
        make_head(network, examples, template="the {}")
    with pytest.raises(SettingsError, match="a logit scale is for cosines"):
        make_head(network, examples, logit_scale=2.0)
    assert make_head(network, examples, "prototypes").dim == 8


def test_factors_are_those_of_brute_force_in_encoder_and_decoder() -> None:
    network = network_of(NAME, MAP)
    batch = text_batch()
    examples = TensorExamples(batch, "x")
    artifact = compute(network, examples, cotangents=EXACT, batch_size=3)
    covered = {n for n in artifact.parameters if n.endswith("SelfAttention.o.weight")}
    assert {name.split(".")[0] for name in covered} == {"encoder", "decoder"}
    check_against_brute_force(network, examples, artifact)


def test_what_is_trained_and_applied_answers_as_the_whole_model(tmp_path: Path) -> None:
    model = saved(tmp_path)
    data, art, tau, out = (tmp_path / n for n in ("pairs.csv", "art", "tau", "out"))
    options = (*COLUMNS, "--output-map", MAP, "--device", "cpu")
    good("compute", model, data, "-o", art, "--allow-few", *options)
    steps = ("--steps", 6, "--lr", 0.01, "--batch-size", 4, "--lambda", 1)
    good("train", model, data, "--curvature", art, "-o", tau, *steps, *options)
    good("evaluate", model, f"{tau}={data}", *options)
    good("apply", model, tau, "-o", out)
    rows = json.loads(good("predict", out, data, *COLUMNS, "--json"))["rows"]
    tokens = tiny_tokenizer("$A </s>")
    encoded: Any = tokens([a for a, _ in PAIRS], [b for _, b in PAIRS], padding=True)
    batch = {
        name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")
    }
    expected = first_logits(out, batch, ["black", "good"]).softmax(-1)
    for row, own in zip(rows, expected, strict=True):
        assert row["class"] == ["black", "good"][int(own.argmax())]
        assert row["probability"] == pytest.approx(float(own.max()), rel=1e-4)


def test_an_encoder_alone_has_no_decoder(tmp_path: Path) -> None:
    model = saved(tmp_path)
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(told | {"architectures": ["T5EncoderModel"]})
    )
    said = bad(
        "compute",
        model,
        tmp_path / "pairs.csv",
        "-o",
        tmp_path / "a",
        *COLUMNS,
        "--allow-few",
        "--output-map",
        MAP,
    )
    assert "without a head that gives the next token of a second text" in said
