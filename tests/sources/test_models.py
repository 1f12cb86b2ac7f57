"""Loading real model directories, whole and broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.sources import load_network, load_skeleton, output_map
from tests import models
from tests.computed import compute
from tests.models import MODELS, TEXT_MODELS, SavedModel, image_batch, text_batch
from tests.sources import families


def _edit_config(directory: Path, **entries: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("kind", MODELS)
def test_a_directory_loads_as_it_was_saved(saved_model: SavedModel, kind: str) -> None:
    network = load_network(str(saved_model(kind)))
    module = MODELS[kind]()
    original = Network(module, output_map(module), kind)
    batch = text_batch() if kind in TEXT_MODELS else image_batch()
    assert not any(part.training for part in network.module.modules())
    assert (network.id, network.revision) == (kind, None)
    assert network.base == original.base
    torch.testing.assert_close(network(batch), original(batch))


def test_hashes_are_those_of_float32_whatever_the_compute_dtype(
    saved_model: SavedModel,
) -> None:
    directory = str(saved_model("bert"))
    half = load_network(directory, dtype="bfloat16")
    assert {p.dtype for p in half.parameters().values()} == {torch.bfloat16}
    assert half.base == load_network(directory).base


def test_weights_stored_in_half_precision_are_loaded_in_float32(tmp_path: Path) -> None:
    models.tiny_bert(dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    network = load_network(str(tmp_path / "half"))
    assert {p.dtype for p in network.parameters().values()} == {torch.float32}


def test_the_name_in_artifacts_can_be_chosen(
    saved_model: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved_model("bert")
    assert load_network(str(directory), model_id="org/bert").id == "org/bert"
    monkeypatch.chdir(directory)
    assert load_network(".").base.id == "bert"


def test_a_pooler_is_kept_where_the_weights_have_one(tmp_path: Path) -> None:
    from transformers import BertModel

    BertModel(models.tiny_bert().config).save_pretrained(tmp_path / "pooler")
    network = load_network(str(tmp_path / "pooler"))
    assert "pooler.dense.weight" in network.parameters()


def test_of_an_encoder_decoder_t5_the_encoder_is_loaded(tmp_path: Path) -> None:
    from transformers import T5ForConditionalGeneration

    config = models.tiny_t5().config
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    network = load_network(str(tmp_path / "t5"))
    assert not any("decoder" in name for name in network.parameters())
    assert network(text_batch()).shape == (3, 8)


@pytest.mark.parametrize(
    "name",
    [
        "LongT5ForConditionalGeneration",
        "SwitchTransformersForConditionalGeneration",
        "T5GemmaForConditionalGeneration",
    ],
)
def test_of_other_encoder_decoders_the_encoder_is_loaded(
    tmp_path: Path, name: str
) -> None:
    path = families.save(tmp_path / "both", families.build(name))
    network = load_network(str(path), device="cpu")
    assert not any("decoder" in name for name in network.parameters())
    assert network(text_batch()).shape == (3, 8)
    assert load_skeleton(str(path)).shapes == network.shapes


def test_an_encoder_decoder_without_an_encoder_class_says_what_takes_it(
    tmp_path: Path,
) -> None:
    path = families.save(tmp_path / "bart", families.build("BartModel"))
    with pytest.raises(SourceError, match=r"kfac\.Network\(model\.get_encoder\(\)"):
        load_network(str(path))
    encoder = families.build("BartModel").get_encoder()
    f = OutputMap(NamedConfig("first"), lambda m, b: m(**b).last_hidden_state[:, 0])
    network = Network(encoder, f, "bart")
    assert compute(network, TensorExamples(text_batch(), "x")).blocks


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    weights = load_file(directory / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    message = (
        "bert, saved as BertModel, lacks 1 weights of the BertModel that f is of; the "
        "first is encoder.layer.1.output"
    )
    with pytest.raises(SourceError, match=message):
        load_network(str(directory))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    weights = load_file(directory / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = value
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    message = (
        r"bert: encoder.layer.1.output.dense.bias holds values that are not finite"
    )
    with pytest.raises(SourceError, match=message):
        load_network(str(directory))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    with pytest.raises(SourceError, match="bert has no safetensors weights"):
        load_network(str(directory))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SourceError, match="bert cannot be loaded") as caught:
        load_network(str(directory))
    assert "\n" not in str(caught.value)


def test_weights_of_other_sizes_are_refused(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    _edit_config(directory, intermediate_size=10)
    with pytest.raises(SourceError, match="bert cannot be loaded"):
        load_network(str(directory))


def test_an_unknown_architecture_is_named_and_its_code_not_run(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    _edit_config(directory, model_type="new", auto_map={"AutoModel": "code.Model"})
    (directory / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(SourceError, match="is of architecture 'new'"):
        load_network(str(directory))


def test_an_encoder_decoder_without_its_own_encoder_is_refused(tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig().save_pretrained(tmp_path / "bart")
    with pytest.raises(SourceError, match=r"bart is an encoder-decoder \(bart\)"):
        load_network(str(tmp_path / "bart"))


def test_a_directory_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no config\.json"):
        load_network(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json is no JSON"):
        load_network(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./no/such/directory", "neither a directory nor a Hub id"),
        ("no-such-org-xyz/no-such-model", "is not here|is neither here nor a model"),
    ],
)
def test_a_model_that_is_nowhere_is_said(model: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_network(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is unknown; use one of float32"),
        ({"device": "nowhere"}, "device 'nowhere' is not available"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
    ],
)
def test_an_unknown_dtype_or_device_is_said(
    saved_model: SavedModel, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        load_network(str(saved_model("bert")), **options)
