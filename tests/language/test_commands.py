"""Curvature of language models by the commands, from a directory to findings."""

import json
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts import load_artifact
from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.task_vector import TaskVector
from tests.commands import bad, good, kfac
from tests.language.saved import save_model
from tests.language.test_texts import TEXTS, message, rows

FEW = ("--allow-few", "--json")
HEADED = {
    "LlamaForCausalLM": "lm_head.weight",
    "GPT2LMHeadModel": "transformer.wte.weight",
    "BertForMaskedLM": "bert.embeddings.word_embeddings.weight",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))


@pytest.mark.parametrize("name", HEADED)
def test_a_language_model_has_the_curvature_of_its_predictions(
    tmp_path: Path, data: Path, name: str
) -> None:
    model, out = save_model(tmp_path / "model", name), tmp_path / "out"
    by_itself = name != "BertForMaskedLM"  # which is mostly used for what it embeds
    f = () if by_itself else ("--output-map", "lm-fisher")
    planned = json.loads(good("plan", model, *f, "--tokens", 8, "--json"))
    done = kfac("compute", model, data, "-o", out, *f, *FEW)
    assert done.exit_code == 0, done.output
    said = f"model was saved as {name}: f is lm-fisher, the probabilities of the tokens"
    assert (said in done.stderr) == by_itself
    artifact = load_artifact(out)
    assert artifact.provenance.output_map.name == planned["output_map"] == "lm-fisher"
    (source,) = artifact.provenance.sources
    assert source.cotangents == Cotangents("labels", 1, 0)
    assert HEADED[name] in artifact.provenance.uncovered
    assert {block["name"] for block in planned["blocks"]} == artifact.blocks.keys()
    good("verify", out, "--model", model, "--recompute", model, data)
    held = rows(tmp_path / "y.jsonl", *({"text": f"{t} is good"} for t in TEXTS))
    found = json.loads(good("fidelity", out, model, held, "--directions", 1, "--json"))
    assert found["cotangents"]["name"] == "labels"


def test_the_output_table_is_covered_on_request(tmp_path: Path, data: Path) -> None:
    model = save_model(tmp_path / "model", "LlamaForCausalLM")
    why = {}
    for number, options in enumerate(
        ([], ["--include-tables"], ["--estimator", "inputs"])
    ):
        out = tmp_path / str(number)
        good("compute", model, data, "-o", out, *options, *FEW)
        artifact = load_artifact(out)
        why[number] = artifact.provenance.uncovered.get("lm_head.weight")
        assert ("lm_head" in artifact.blocks) == (why[number] is None)
    assert "the output table of a language model" in str(why[0])
    assert why[1] is why[2] is None


def test_its_embedding_can_be_asked_for(tmp_path: Path, data: Path) -> None:
    model, out = save_model(tmp_path / "model", "LlamaForCausalLM"), tmp_path / "out"
    done = kfac("compute", model, data, "-o", out, "--output-map", "embedding", *FEW)
    assert done.exit_code == 0, done.output
    assert "lm-fisher" not in done.stderr
    artifact = load_artifact(out)
    assert artifact.provenance.output_map.name == "last-token"
    assert "layers.0.mlp.up_proj" in artifact.blocks
    good("verify", out, "--model", model, "--recompute", model, data)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
def test_curvature_by_default_is_of_use_to_train_or_says_how_it_would_be(
    tmp_path: Path, name: str
) -> None:
    """Encoders, which are mostly saved with the head for masked tokens, just work."""
    model = save_model(tmp_path / "model", name)
    labelled = [{"text": t, "label": w} for t, w in zip(TEXTS, "abab", strict=True)]
    data = rows(tmp_path / "x.jsonl", *labelled)
    where = ("-o", tmp_path / "tau", "--curvature", tmp_path / "out")
    train = ("train", model, data, "--head", "prototypes", "--steps", 1, *where)
    compute = ("compute", model, data, *FEW, "--force", "-o", tmp_path / "out")
    good(*compute)
    if name == "LlamaForCausalLM":
        assert "(kfac compute --output-map last-token)" in bad(*train)
        good(*compute, "--output-map", "last-token")
    good(*train)


def test_a_language_model_classifies_by_what_it_embeds(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "LlamaForCausalLM")
    labelled = [
        {"text": text, "label": label}
        for text, label in zip(TEXTS, "abab", strict=True)
    ]
    data = rows(tmp_path / "x.jsonl", *labelled)
    train = ("train", model, data, "--head", "prototypes", "--steps", 1)
    good(*train, "-o", tmp_path / "tau")
    assert "layers.0.mlp.up_proj.weight" in TaskVector.load(tmp_path / "tau").tensors
    said = bad(*train, "-o", tmp_path / "none", "--output-map", "lm-fisher")
    assert "which no head classifies; give --output-map embedding" in said


def test_conversations_are_read_by_the_commands(tmp_path: Path) -> None:
    model, out = save_model(tmp_path / "model", "LlamaForCausalLM"), tmp_path / "out"
    chats: list[Any] = [
        {"talk": [message("user", text), message("assistant", "it is good")]}
        for text in TEXTS
    ]
    data = rows(tmp_path / "talk.jsonl", *chats)
    good("compute", model, data, "-o", out, "--chat-column", "talk", *FEW)
    how = load_artifact(out).provenance.sources[0].data.preprocessing
    assert how.configuration["columns"] == ["talk"]
    assert how.configuration["chat"] == "assistant"
    again = ("verify", out, "--recompute", model, data)
    good(*again, "--chat-column", "talk")
    good(*again)  # as the manifest says
    assert kfac(*again, "--text-column", "talk").exit_code == 1


def test_conversations_that_go_on_are_recomputed_as_they_were_read(
    tmp_path: Path,
) -> None:
    model, out = save_model(tmp_path / "model", "LlamaForCausalLM"), tmp_path / "out"
    said = [message("user", "it is"), message("assistant", "it is good")]
    chats: list[Any] = [
        {"prompt": [*said, message("user", text)], "completion": said[1:]}
        for text in TEXTS
    ]
    data = rows(tmp_path / "talk.jsonl", *chats)
    good("compute", model, data, "-o", out, *FEW)
    how = load_artifact(out).provenance.sources[0].data.preprocessing.configuration
    assert how["columns"] == ["prompt", "completion"]
    good("verify", out, "--recompute", model, data)  # as the manifest says


def test_conversations_share_rows_if_that_is_asked_for(tmp_path: Path) -> None:
    model, out = save_model(tmp_path / "model", "LlamaForCausalLM"), tmp_path / "out"
    chats: list[Any] = [
        {"talk": [message("user", text), message("assistant", "it is good")]}
        for text in TEXTS * 2
    ]
    data = rows(tmp_path / "talk.jsonl", *chats)
    read = ("--chat-column", "talk", "--max-length", 31)
    done = kfac("compute", model, data, "-o", out, *read, "--pack", *FEW)
    assert done.exit_code == 0, done.output
    assert "packed into 4 rows, of which 4 are used" in done.stderr
    assert load_artifact(out).provenance.sources[0].data.size == 4
    good("verify", out, "--recompute", model, data)  # as the manifest says
    assert kfac("compute", model, data, "-o", tmp_path / "two", *read).exit_code == 1
    said = bad("compute", model, data, "-o", tmp_path / "two", *read, "--pack")
    assert "8 examples" in said


def test_an_encoder_decoder_takes_two_texts(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    save_model(model, "T5ForConditionalGeneration")
    pairs = [{"a": text, "b": "it is good"} for text in TEXTS]
    data = rows(tmp_path / "pairs.jsonl", *pairs)
    f = ("--output-map", "lm-fisher")
    both = ("--text-column", "a", "--text-column", "b")
    good("compute", model, data, "-o", out, *f, *both, *FEW)
    assert "decoder.block.0.layer.1.EncDecAttention.k" in load_artifact(out).blocks
    planned = json.loads(good("plan", model, *f, "--tokens", 8, "--json"))
    names = {block["name"] for block in planned["blocks"]}
    assert names == load_artifact(out).blocks.keys()


def test_classifiers_classify_by_what_they_embed(tmp_path: Path) -> None:
    name = "BertForSequenceClassification"
    model, out = save_model(tmp_path / "model", name), tmp_path / "out"
    data = rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    good("compute", model, data, "-o", out, "--output-map", "logits-fisher", *FEW)
    artifact = load_artifact(out)
    assert artifact.provenance.output_map.name == "logits-fisher"
    assert {"classifier", "bert.pooler.dense"} <= artifact.blocks.keys()
