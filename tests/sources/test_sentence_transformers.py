"""f of a directory of sentence-transformers against what that library computes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import modules as st
from torch import nn

from kfac_artifacts.errors import SourceError
from kfac_artifacts.estimate import plan
from kfac_artifacts.sources import (
    blank_examples,
    encode_texts,
    load_examples,
    load_network,
    load_skeleton,
)
from kfac_artifacts.sources.texts import load_text_encoder
from tests.computed import compute
from tests.models import SavedModel
from tests.sources.sentence_encoders import (
    TEXTS,
    edit,
    old_layout,
    require_equal,
    write,
    write_json,
)

pytestmark = pytest.mark.usefixtures("calm")


EVERY = list(st.Pooling.POOLING_MODES)


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "every pooling": lambda: [st.Pooling(8, EVERY)],
    "dense": lambda: [
        st.Pooling(8, "mean"),
        st.Dense(8, 6),
        st.Dense(6, 8, bias=False, activation_function=nn.Identity()),
        st.Normalize(),
    ],
    "residual": lambda: [
        st.Pooling(8, "max"),
        st.Dense(8, 8, use_residual=True, activation_function=nn.PReLU()),
        st.Dropout(0.5),
        st.Dense(8, 4, use_residual=True, activation_function=nn.GELU()),
    ],
    "layer norm": lambda: [st.Pooling(8, "weightedmean"), st.LayerNorm(8)],
    "tokens": lambda: [
        st.Dense(8, 6, module_input_name="token_embeddings"),
        st.Normalize("token_embeddings"),
        st.Pooling(6, "mean_sqrt_len_tokens"),
    ],
    "layers not given": lambda: [
        st.WeightedLayerPooling(8, 2, 1),
        st.Pooling(8, "mean"),
    ],
}


@pytest.mark.parametrize("prompt", [None, "a cat "])
@pytest.mark.parametrize("chain", CHAINS)
def test_f_is_what_encode_gives(
    saved_model: SavedModel, tmp_path: Path, chain: str, prompt: str | None
) -> None:
    first = st.Transformer(str(saved_model("bert")))
    options: dict[str, Any] = {}
    if prompt is not None:
        options = {"prompts": {"p": prompt}, "default_prompt_name": "p"}
        options["include_prompt"] = False
    made = write(tmp_path / "st", [first, *CHAINS[chain]()], **options)
    require_equal(made, "sentence-transformers")


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalised", [True, False])
def test_a_plain_pooling_keeps_its_short_name(
    saved_model: SavedModel, tmp_path: Path, mode: str, normalised: bool
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, mode)]
    made = write(tmp_path / "st", [*steps, *[st.Normalize()] * normalised])
    short = {"mean": "mean-pool", "cls": "cls", "lasttoken": "last-token"}[mode]
    require_equal(made, short if normalised else f"{short}-raw")


@pytest.mark.parametrize(
    "options",
    [
        {"max_seq_length": 5},
        {"do_lower_case": True},
        {"config_kwargs": {"output_hidden_states": True}},
    ],
    ids=str,
)
def test_what_the_encoder_declares_is_done(
    saved_model: SavedModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    first = st.Transformer(str(saved_model("bert")), **options)
    layers = st.WeightedLayerPooling(8, 2, 1)
    require_equal(write(tmp_path / "st", [first, layers, st.Pooling(8, "mean")]))


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_other_encoders_and_a_truncated_embedding(
    saved_model: SavedModel, tmp_path: Path, kind: str
) -> None:
    first = st.Transformer(
        str(saved_model(kind)), processor_kwargs={"pad_token": "</s>"}
    )
    pooled = st.Pooling(8, "lasttoken" if kind == "gpt2" else "mean")
    made = write(tmp_path / "st", [first, pooled], truncate_dim=3)
    require_equal(made, "sentence-transformers")


@pytest.mark.parametrize("folder", ["0_Transformer", ""])
def test_old_layouts_are_read(
    saved_model: SavedModel, tmp_path: Path, folder: str
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old", folder)
    require_equal(made, "sentence-transformers")
    assert load_network(str(made)).id == "old"


def test_modules_behind_the_encoder_are_reported_and_not_covered(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(TEXTS * 2))
    network = load_network(str(made), device="cpu")
    examples = load_examples(str(tmp_path / "t.csv"), network)
    artifact = compute(network, examples)
    behind = {
        name: "it belongs to a module behind the encoder"
        for name in ("modules.2_Dense.linear.weight", "modules.2_Dense.linear.bias")
    }
    assert behind.items() <= artifact.provenance.uncovered.items()
    assert "embeddings.word_embeddings.weight" in network.parameters()
    how = artifact.provenance.sources[0].data.preprocessing.configuration
    assert how == {"columns": ["text"], "max_length": 7, "lower_case": True}
    kinds = artifact.provenance.output_map.configuration["modules"]
    assert [m["type"] for m in kinds] == ["Pooling", "Dense", "Normalize"]

    skeleton = load_skeleton(str(made))
    found = plan(skeleton, blank_examples(skeleton, 2))
    assert behind.items() <= found.uncovered.items()
    assert found.outputs == 5


def test_other_weights_behind_the_encoder_are_another_f(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    before = load_network(str(made)).output_map.info
    weights = load_file(made / "2_Dense" / "model.safetensors")
    weights["linear.bias"] += 1
    save_file(weights, made / "2_Dense" / "model.safetensors")
    assert load_network(str(made)).output_map.info != before


def test_the_weights_behind_the_encoder_follow_the_number_type(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    half = encode_texts(load_network(str(made), dtype="bfloat16"), TEXTS)
    full = encode_texts(load_network(str(made)), TEXTS)
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.05)


def test_settings_that_say_null_say_nothing(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    lower = made / "0_Transformer" / "sentence_roberta_config.json"
    edit(lower, max_seq_length=None, do_lower_case=None, tokenizer_args=None)
    top = {"prompts": {"q": None}, "default_prompt_name": "q", "truncate_dim": None}
    edit(made / "config_sentence_transformers.json", **top)
    encoder = load_text_encoder(load_network(str(made)))
    assert (encoder.max_length, encoder.prompt, encoder.lower_case) == (16, "", False)


def test_two_modules_may_share_a_folder(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    edit(made / "2_Dense" / "config.json", in_features=16, out_features=16)
    weights = {"linear.weight": torch.randn(16, 16), "linear.bias": torch.randn(16)}
    save_file(weights, made / "2_Dense" / "model.safetensors")
    listing = json.loads((made / "modules.json").read_text())
    again = listing[2] | {"name": "again"}
    write_json(made / "modules.json", [*listing[:3], again, *listing[3:]])
    require_equal(made, "sentence-transformers")
    names = set(load_network(str(made)).output_map.constants)
    assert names >= {"modules.2_Dense.linear.weight", "modules.1_Dense.linear.weight"}


def test_two_towers_of_sentence_transformers_ask_for_a_name(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    shutil.copytree(saved_model("clip"), tmp_path / "m")
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write_json(tmp_path / "m" / "modules.json", [{"path": "", "type": kind}])
    with pytest.raises(SourceError, match="its encoder gives clip-image and clip-text"):
        load_network(str(tmp_path / "m"))
    assert load_network(str(tmp_path / "m"), output_map="clip-text")
