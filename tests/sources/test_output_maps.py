"""Output maps: their values against plain formulas, and torch.func through them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac_artifacts.errors import ModelError, SourceError, is_out_of_memory
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_network, output_map
from tests import models
from tests.models import MODELS, TEXT_MODELS, image_batch, text_batch

LENGTHS = (5, 3, 2)
USUAL = {
    "bert": "mean-pool",
    "t5": "mean-pool",
    "gpt2": "last-token",
    "vit": "cls",
    "clip": "clip-image",
}


def _network(kind: str, name: str | None = None) -> Network:
    module = MODELS[kind](dtype=torch.float64)
    return Network(module, output_map(module, name), kind)


def _batch(kind: str) -> dict[str, Tensor]:
    return text_batch() if kind in TEXT_MODELS else image_batch(dtype=torch.float64)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(-1, keepdim=True).sqrt()


def test_a_decoder_that_sees_both_ways_is_an_encoder() -> None:
    from transformers import Gemma3TextConfig, Gemma3TextModel

    settings = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "vocab_size": 12,
    }
    for both_ways, name in ((True, "mean-pool"), (False, "last-token")):
        config = Gemma3TextConfig(use_bidirectional_attention=both_ways, **settings)
        assert output_map(Gemma3TextModel(config)).info.name == name


@pytest.mark.parametrize(("kind", "name"), USUAL.items())
def test_every_architecture_has_its_usual_map(kind: str, name: str) -> None:
    network = _network(kind)
    assert network.output_map.info.name == name
    torch.testing.assert_close(
        network(_batch(kind)).norm(dim=-1), torch.ones(3, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("mean-pool-raw", lambda h, n: h[:n].mean(0)),
        ("cls-raw", lambda h, n: h[0]),
        ("last-token-raw", lambda h, n: h[n - 1]),
    ],
)
@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_pooling_of_padded_texts_is_that_of_each_text_alone(
    kind: str, name: str, pool: Callable[[Tensor, int], Tensor]
) -> None:
    network, batch = _network(kind, name), text_batch()
    expected = []
    for ids, length in zip(batch["input_ids"], LENGTHS, strict=True):
        hidden = network.module(input_ids=ids[None, :length]).last_hidden_state[0]
        expected.append(pool(hidden, length))
    torch.testing.assert_close(network(batch), torch.stack(expected))


def test_a_map_without_raw_is_the_raw_one_at_unit_length() -> None:
    raw, unit = _network("vit", "cls-raw"), _network("vit", "cls")
    batch = _batch("vit")
    torch.testing.assert_close(unit(batch), _unit(raw(batch)))


def test_clip_maps_are_the_embeddings_that_clip_compares() -> None:
    clip = models.tiny_clip()
    text, image = text_batch(), image_batch()
    outputs = clip(**text, **image)
    image_map, text_map = output_map(clip), output_map(clip, "clip-text")
    torch.testing.assert_close(image_map.apply(clip, image), outputs.image_embeds)
    torch.testing.assert_close(text_map.apply(clip, text), outputs.text_embeds)


@pytest.mark.parametrize(
    ("kind", "batch"), [("Vision", image_batch()), ("Text", text_batch())]
)
def test_one_tower_gives_the_same_as_both(
    tmp_path: Path, kind: str, batch: dict[str, Tensor]
) -> None:
    import transformers

    clip = models.tiny_clip()
    clip.save_pretrained(tmp_path / "both")
    tower = getattr(transformers, f"CLIP{kind}ModelWithProjection")
    tower.from_pretrained(tmp_path / "both").save_pretrained(tmp_path / "tower")
    network = load_network(str(tmp_path / "tower"))
    name = network.output_map.info.name
    assert type(network.module) is tower
    torch.testing.assert_close(
        network(batch), output_map(clip, name).apply(clip, batch)
    )


def test_a_convolutional_network_is_pooled_over_its_map_of_features() -> None:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1])
    module = ResNetModel(config).eval()
    images = image_batch(count=2)
    mean = output_map(module, "mean-pool-raw").apply(module, images)
    pooled = output_map(module, "pooler-raw").apply(module, images)
    assert output_map(module).info.name == "mean-pool"
    torch.testing.assert_close(mean, pooled)


@pytest.mark.parametrize("kind", MODELS)
def test_torch_func_goes_through_every_usual_map(kind: str) -> None:
    network, batch = _network(kind), _batch(kind)
    parameters = {n: p.detach() for n, p in network.parameters().items()}
    generator = torch.Generator().manual_seed(0)
    tangents = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }

    def f(values: dict[str, Tensor]) -> Tensor:
        return network.functional_call(values, batch)

    with sdpa_kernel(SDPBackend.MATH):
        outputs, forward_mode = jvp(f, (parameters,), (tangents,))[:2]
        jacobian = jacrev(f)(parameters)
    reverse_mode = sum(
        (jacobian[n].flatten(2) @ tangents[n].flatten())
        if tangents[n].ndim
        else jacobian[n] * tangents[n]
        for n in parameters
    )
    torch.testing.assert_close(outputs, network(batch))
    # T5 takes its mean squares in float32
    bounds = {"rtol": 1e-4, "atol": 1e-5} if kind == "t5" else {}
    torch.testing.assert_close(forward_mode, reverse_mode, **bounds)


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "cls-raw",
        ),
        (
            {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8},
            "mean-pool-raw",
        ),
        ({"pooling_mode": "lasttoken"}, "last-token-raw"),
    ],
)
def test_the_pooling_of_a_sentence_transformers_directory_is_used(
    tmp_path: Path, pooling: dict[str, object], name: str
) -> None:
    _declare_pooling(models.save_tiny_bert(tmp_path / "bert"), pooling)
    assert load_network(str(tmp_path / "bert")).output_map.info.name == name


def test_an_unknown_declared_pooling_asks_for_a_name(tmp_path: Path) -> None:
    directory = models.save_tiny_bert(tmp_path / "bert")
    _declare_pooling(directory, {"pooling_mode": ["mean", "median"]})
    with pytest.raises(SourceError, match="1_Pooling pools by median, which is not"):
        load_network(str(directory))
    assert load_network(str(directory), output_map="cls").output_map.info.name == "cls"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("bert", "average", "'average' is unknown.*BertModel.*mean-pool, cls"),
        ("bert", "clip-image", "does not fit a BertModel"),
        ("clip", "mean-pool", "does not fit a CLIPModel.*clip-image, clip-text"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(kind: str, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        output_map(MODELS[kind](), name)


def test_a_missing_pooler_is_said() -> None:
    module: nn.Module = models.tiny_vit()
    with pytest.raises(SourceError, match="has no pooler"):
        output_map(module, "pooler").apply(module, image_batch())


def test_inputs_that_a_model_does_not_take_are_one_line() -> None:
    from transformers import ViltConfig, ViltModel

    small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    module = ViltModel(ViltConfig(**small, intermediate_size=8, vocab_size=30))
    with pytest.raises(SourceError, match="ViltModel cannot be run on input_ids"):
        output_map(module, "cls")(module, text_batch())
    bert = models.tiny_bert()
    long = {"input_ids": torch.full((1, 3), 10**6)}
    with pytest.raises(SourceError, match="BertModel cannot be run on input_ids"):
        output_map(bert)(bert, long)


def _fail_on_long_texts(module: nn.Module, size: int) -> None:
    """Let a BERT compute no text of more tokens, with an error of PyTorch's own."""

    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] > size:
            return output @ torch.ones(1, 2)
        return output

    module.get_submodule("embeddings").register_forward_hook(hook)


def test_what_a_model_cannot_compute_is_one_line_in_any_pass() -> None:
    module = models.tiny_bert()
    _fail_on_long_texts(module, 3)
    f = output_map(module)
    assert f(module, {"input_ids": torch.ones(2, 3).long()}).isfinite().all()
    with pytest.raises(ModelError, match=r"BertModel cannot be run .*\[2, 4\]: .*mult"):
        f(module, {"input_ids": torch.ones(2, 4).long()})


def test_memory_that_does_not_suffice_is_said_as_it_is() -> None:
    module = models.tiny_bert()

    def hook(*_: Any) -> None:
        torch.empty(2**60)

    module.register_forward_hook(hook)
    with pytest.raises(RuntimeError) as caught:
        output_map(module)(module, text_batch())
    assert is_out_of_memory(caught.value)
    assert not isinstance(caught.value, ModelError)


def _declare_pooling(directory: Path, pooling: dict[str, object]) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
