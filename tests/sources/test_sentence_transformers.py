"""f of a directory of sentence-transformers against what that library computes."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
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

TEXTS = [
    "the good bird sings and the cat sits on a black fish in it",
    "a DOG",
    "white",
    "red green blue brown black white it runs",
]
EVERY = list(st.Pooling.POOLING_MODES)
CLOSE = {"rtol": 0.0, "atol": 1e-6}

Saved = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def _write(directory: Path, modules: list[nn.Module], **options: Any) -> Path:
    torch.manual_seed(0)
    for module in modules[1:]:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    excluded = options.pop("include_prompt", True) is False
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    if excluded:
        model.set_pooling_include_prompt(include_prompt=False)
    model.save_pretrained(str(directory))
    return directory


def _require_equal(directory: Path, name: str | None = None, **options: Any) -> None:
    model = SentenceTransformer(str(directory), device="cpu")
    expected = torch.tensor(model.encode(TEXTS, **options))
    network = load_network(str(directory), device="cpu")
    torch.testing.assert_close(
        encode_texts(network, TEXTS, prompt=options.get("prompt")), expected, **CLOSE
    )
    if name is not None:
        assert network.output_map.info.name == name


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
    saved_model: Saved, tmp_path: Path, chain: str, prompt: str | None
) -> None:
    first = st.Transformer(str(saved_model("bert")))
    options: dict[str, Any] = {}
    if prompt is not None:
        options = {"prompts": {"p": prompt}, "default_prompt_name": "p"}
        options["include_prompt"] = False
    made = _write(tmp_path / "st", [first, *CHAINS[chain]()], **options)
    _require_equal(made, "sentence-transformers")


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalised", [True, False])
def test_a_plain_pooling_keeps_its_short_name(
    saved_model: Saved, tmp_path: Path, mode: str, normalised: bool
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, mode)]
    made = _write(tmp_path / "st", [*steps, *[st.Normalize()] * normalised])
    short = {"mean": "mean-pool", "cls": "cls", "lasttoken": "last-token"}[mode]
    _require_equal(made, short if normalised else f"{short}-raw")


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
    saved_model: Saved, tmp_path: Path, options: dict[str, Any]
) -> None:
    first = st.Transformer(str(saved_model("bert")), **options)
    layers = st.WeightedLayerPooling(8, 2, 1)
    _require_equal(_write(tmp_path / "st", [first, layers, st.Pooling(8, "mean")]))


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_other_encoders_and_a_truncated_embedding(
    saved_model: Saved, tmp_path: Path, kind: str
) -> None:
    first = st.Transformer(
        str(saved_model(kind)), processor_kwargs={"pad_token": "</s>"}
    )
    pooled = st.Pooling(8, "lasttoken" if kind == "gpt2" else "mean")
    made = _write(tmp_path / "st", [first, pooled], truncate_dim=3)
    _require_equal(made, "sentence-transformers")


def _old_layout(bert: Path, directory: Path, folder: str = "0_Transformer") -> Path:
    """As sentence-transformers 0.3 to 5 wrote it, with the encoder in a folder."""
    shutil.copytree(bert, directory / folder)
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    listing = [
        {
            "idx": i,
            "name": str(i),
            "path": folder if i == 0 else f"{i}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    _json(directory / "modules.json", listing)
    _json(directory / "config.json", {"__version__": "0.3.8"}) if folder else None
    settings = {"max_seq_length": 7, "do_lower_case": True}
    _json(directory / folder / "sentence_roberta_config.json", settings)
    ways = ("max", "mean")
    flags: dict[str, Any] = {f"pooling_mode_{m}_tokens": m == "mean" for m in ways}
    flags |= {"pooling_mode_cls_token": True, "word_embedding_dimension": 8}
    _json(directory / "1_Pooling" / "config.json", flags)
    dense = {"in_features": 16, "out_features": 5, "bias": True}
    dense["activation_function"] = "torch.nn.modules.activation.Tanh"  # type: ignore[assignment]
    _json(directory / "2_Dense" / "config.json", dense)
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(5, 16), "linear.bias": torch.randn(5)}
    save_file(weights, directory / "2_Dense" / "model.safetensors")
    (directory / "3_Normalize").mkdir()
    return directory


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("folder", ["0_Transformer", ""])
def test_old_layouts_are_read(saved_model: Saved, tmp_path: Path, folder: str) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old", folder)
    _require_equal(made, "sentence-transformers")
    assert load_network(str(made)).id == "old"


def test_modules_behind_the_encoder_are_reported_and_not_covered(
    saved_model: Saved, tmp_path: Path
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
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
    saved_model: Saved, tmp_path: Path
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    before = load_network(str(made)).output_map.info
    weights = load_file(made / "2_Dense" / "model.safetensors")
    weights["linear.bias"] += 1
    save_file(weights, made / "2_Dense" / "model.safetensors")
    assert load_network(str(made)).output_map.info != before


def test_the_weights_behind_the_encoder_follow_the_number_type(
    saved_model: Saved, tmp_path: Path
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    half = encode_texts(load_network(str(made), dtype="bfloat16"), TEXTS)
    full = encode_texts(load_network(str(made)), TEXTS)
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.05)


def test_a_prompt_can_be_given_left_out_and_is_told_and_recorded(
    saved_model: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, "mean")]
    prompts = {"prompts": {"ask": "a cat "}, "default_prompt_name": "ask"}
    made = _write(tmp_path / "told", steps, **prompts)
    for prompt in ("", "the red "):
        _require_equal(made, prompt=prompt)
    network = load_network(str(made), device="cpu")
    caplog.clear()
    assert load_text_encoder(network).configuration["prompt"] == "a cat "
    assert "told declares the prompt 'a cat ': it is put before" in caplog.text
    assert "prompt" not in load_text_encoder(network, prompt="").configuration


def test_prompts_without_a_default_are_told_and_not_used(
    saved_model: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, "mean")]
    made = _write(tmp_path / "several", steps, prompts={"query": "it is "})
    caplog.clear()
    assert load_text_encoder(load_network(str(made))).prompt == ""
    assert "several declares prompts, but none as the default: query ('it" in (
        caplog.text
    )


def _edit(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | entries))


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
        lambda d: _edit(
            d / "config_sentence_transformers.json", model_type="SparseEncoder"
        ),
        "it is a SparseEncoder",
    ),
    "a chat template": (
        lambda d: _edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            modality_config={"message": {"method": "forward"}},
        ),
        "reads message in a way of its own",
    ),
    "another output": (
        lambda d: _edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            module_output_name="sentence_embedding",
        ),
        "its encoder gives sentence_embedding",
    ),
    "arguments of the model": (
        lambda d: _edit(
            d / "0_Transformer" / "sentence_roberta_config.json",
            model_args={"num_hidden_layers": 1},
        ),
        "it sets the model argument num_hidden_layers",
    ),
    "an activation of its own": (
        lambda d: _edit(
            d / "2_Dense" / "config.json", activation_function="my.code.Act"
        ),
        "2_Dense has the activation my.code.Act",
    ),
    "an activation that is none": (
        lambda d: _edit(
            d / "2_Dense" / "config.json", activation_function="torch.nn.Module"
        ),
        "2_Dense has the activation torch.nn.Module",
    ),
    "a size that is missing": (
        lambda d: (d / "2_Dense" / "config.json").write_text("{}"),
        "2_Dense: no Dense can be built from its config.json",
    ),
    "weights of another size": (
        lambda d: _edit(d / "2_Dense" / "config.json", out_features=6),
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
    saved_model: Saved, tmp_path: Path, case: str
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    change, message = REFUSED[case]
    change(made)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)
    assert load_network(str(made), output_map="cls").output_map.info.name == "cls"


def test_weights_that_are_not_finite_are_named(
    saved_model: Saved, tmp_path: Path
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
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
    saved_model: Saved, tmp_path: Path, listing: str, message: str
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    (made / "modules.json").write_text(listing)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["StaticEmbedding", "BoW", "WordEmbeddings", "Router"])
def test_models_without_a_transformer_are_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    entry = {"path": "", "type": f"sentence_transformers.models.{kind}"}
    _json(tmp_path / "m" / "modules.json", [entry])
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
    saved_model: Saved, tmp_path: Path, name: str, entry: dict[str, Any], message: str
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    top = made / "config_sentence_transformers.json"
    lower = made / "0_Transformer" / "sentence_roberta_config.json"
    _edit(top if name == "top" else lower, **entry)
    with pytest.raises(SourceError, match=message) as caught:
        load_network(str(made))
    assert "\n" not in str(caught.value)


def test_settings_that_say_null_say_nothing(saved_model: Saved, tmp_path: Path) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    lower = made / "0_Transformer" / "sentence_roberta_config.json"
    _edit(lower, max_seq_length=None, do_lower_case=None, tokenizer_args=None)
    top = {"prompts": {"q": None}, "default_prompt_name": "q", "truncate_dim": None}
    _edit(made / "config_sentence_transformers.json", **top)
    encoder = load_text_encoder(load_network(str(made)))
    assert (encoder.max_length, encoder.prompt, encoder.lower_case) == (16, "", False)


def test_two_modules_may_share_a_folder(saved_model: Saved, tmp_path: Path) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    _edit(made / "2_Dense" / "config.json", in_features=16, out_features=16)
    weights = {"linear.weight": torch.randn(16, 16), "linear.bias": torch.randn(16)}
    save_file(weights, made / "2_Dense" / "model.safetensors")
    listing = json.loads((made / "modules.json").read_text())
    again = listing[2] | {"name": "again"}
    _json(made / "modules.json", [*listing[:3], again, *listing[3:]])
    _require_equal(made, "sentence-transformers")
    names = set(load_network(str(made)).output_map.constants)
    assert names >= {"modules.2_Dense.linear.weight", "modules.1_Dense.linear.weight"}


def test_two_towers_of_sentence_transformers_ask_for_a_name(
    saved_model: Saved, tmp_path: Path
) -> None:
    shutil.copytree(saved_model("clip"), tmp_path / "m")
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    _json(tmp_path / "m" / "modules.json", [{"path": "", "type": kind}])
    with pytest.raises(SourceError, match="its encoder gives clip-image and clip-text"):
        load_network(str(tmp_path / "m"))
    assert load_network(str(tmp_path / "m"), output_map="clip-text")


def test_a_default_prompt_that_is_not_declared_is_an_error(
    saved_model: Saved, tmp_path: Path
) -> None:
    made = _old_layout(saved_model("bert"), tmp_path / "old")
    _edit(made / "config_sentence_transformers.json", default_prompt_name="q")
    with pytest.raises(SourceError, match="default prompt 'q' is not among"):
        load_text_encoder(load_network(str(made)))
