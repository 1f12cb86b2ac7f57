"""Damaged directories of sentence-transformers, or such that ask for too much."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_network
from tests.models import SavedModel
from tests.sources.sentence_encoders import edit, old_layout, write_json

pytestmark = pytest.mark.usefixtures("calm")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a module of its own code": (
        lambda d: _retype(d, 3, "custom_st.Normalize"),
        "a module custom_st.Normalize",
    ),
    "an encoder of its own code": (
        lambda d: _retype(d, 0, "custom_st.Transformer"),
        "its first module is a custom_st.Transformer",
    ),
    **{
        kind: (
            lambda d, kind=kind: _retype(d, 3, f"sentence_transformers.models.{kind}"),  # type: ignore[misc]
            f"a module {kind}",
        )
        for kind in ("CNN", "LSTM", "WordWeights", "Router", "Asym")
    },
    "a sparse encoder": (
        lambda d: edit(
            d / "config_sentence_transformers.json", model_type="SparseEncoder"
        ),
        "it is a SparseEncoder",
    ),
    "a chat template": (
        lambda d: edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            modality_config={"message": {"method": "forward"}},
        ),
        "reads message in a way of its own",
    ),
    "another output": (
        lambda d: edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            module_output_name="sentence_embedding",
        ),
        "its encoder gives sentence_embedding",
    ),
    "arguments of the model": (
        lambda d: edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            model_args={"num_hidden_layers": 1},
        ),
        "it sets the model argument num_hidden_layers",
    ),
    "an activation of its own": (
        lambda d: edit(
            d / "2_Dense" / "config.json", activation_function="my.code.Act"
        ),
        "2_Dense has the activation my.code.Act",
    ),
    "an activation that is none": (
        lambda d: edit(
            d / "2_Dense" / "config.json", activation_function="torch.nn.Module"
        ),
        "2_Dense has the activation torch.nn.Module",
    ),
    "a size that is missing": (
        lambda d: (d / "2_Dense" / "config.json").write_text("{}"),
        "2_Dense: no Dense can be built from its config.json",
    ),
    "weights of another size": (
        lambda d: edit(d / "2_Dense" / "config.json", out_features=6),
        "2_Dense/model.safetensors cannot be loaded",
    ),
    "weights that are cut short": (
        lambda d: (d / "2_Dense" / "model.safetensors").write_bytes(b"12345678"),
        "2_Dense/model.safetensors cannot be loaded",
    ),
    "weights in a pickle": (
        lambda d: (d / "2_Dense" / "model.safetensors").rename(
            d / "2_Dense" / "pytorch_model.bin"
        ),
        "it has only pytorch_model.bin, a pickle.*save_pretrained",
    ),
    "no pooling": (
        lambda d: _retype(d, 1, "sentence_transformers.models.Dropout"),
        "no module that makes one embedding of the tokens",
    ),
}


def _retype(directory: Path, number: int, kind: str) -> None:
    path = directory / "modules.json"
    listing = json.loads(path.read_text())
    listing[number]["type"] = kind
    path.write_text(json.dumps(listing))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_handled_is_refused_by_name(
    saved_model: SavedModel, tmp_path: Path, case: str
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    change, message = REFUSED[case]
    change(made)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)
    assert load_network(str(made), output_map="cls").output_map.info.name == "cls"


def test_weights_that_are_not_finite_are_named(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    weights = load_file(made / "2_Dense" / "model.safetensors")
    weights["linear.bias"][0] = float("nan")
    save_file(weights, made / "2_Dense" / "model.safetensors")
    with pytest.raises(SourceError, match=r"linear\.bias holds values that are not"):
        load_network(str(made))


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("{", "modules.json is no JSON"),
        ("{}", "holds a dict, where a list is expected"),
        ("[]", "lists no modules"),
        ('[{"path": ""}]', "is no list of modules with type and path"),
        ('[{"type": "a.B", "path": "../../secret"}]', "which lies outside"),
        ('[{"type": "a.B", "path": "/etc"}]', "which lies outside"),
    ],
)
def test_a_damaged_list_of_modules_is_one_line(
    saved_model: SavedModel, tmp_path: Path, listing: str, message: str
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    (made / "modules.json").write_text(listing)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["StaticEmbedding", "BoW", "WordEmbeddings", "Router"])
def test_models_without_a_transformer_are_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    entry = {"path": "", "type": f"sentence_transformers.models.{kind}"}
    write_json(tmp_path / "m" / "modules.json", [entry])
    with pytest.raises(SourceError, match=f"its first module is a {kind} of sentence"):
        load_network(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("sentence_roberta", {"max_seq_length": "many"}, "max_seq_length is 'many'"),
        ("sentence_roberta", {"model_args": []}, r"model_args is \[\], where a dict"),
        ("sentence_roberta", {"modality_config": 1}, "modality_config is 1"),
        ("top", {"truncate_dim": "5"}, "truncate_dim is '5', where a int"),
        ("top", {"prompts": ["query: "]}, "prompts is"),
        ("top", {"prompts": {"query": 1}}, "a prompt is no text"),
    ],
)
def test_damaged_settings_are_one_line(
    saved_model: SavedModel,
    tmp_path: Path,
    name: str,
    entry: dict[str, Any],
    message: str,
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    top = made / "config_sentence_transformers.json"
    lower = made / "0_Transformer" / "sentence_roberta_config.json"
    edit(top if name == "top" else lower, **entry)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)
