"""Models with a text and an image tower: f is what their own methods give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from torch.nn.functional import normalize

from kfac_artifacts.errors import CoverageError, SourceError
from kfac_artifacts.sources import encode_texts, load_examples, load_network
from kfac_artifacts.sources.texts import load_text_encoder
from tests import models
from tests.computed import compute
from tests.models import END, IMAGE_SIZE, PAD, START, VOCABULARY, tiny_tokenizer
from tests.sources.families import WIDTHS

TEXTS = ["the cat sits on a red bird", "a dog", "white", "the bird sings green"]
LONGEST = 16
TEXT = WIDTHS | {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
    "max_position_embeddings": LONGEST,
}
IMAGE = WIDTHS | {"image_size": IMAGE_SIZE, "patch_size": 4}
PATCHES = WIDTHS | {"patch_size": 4, "num_patches": 16}


def _like_clip(name: str, **text: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model, config = getattr(tf, f"{name}Model"), getattr(tf, f"{name}Config")
        towers = {"text_config": TEXT | text, "vision_config": IMAGE}
        return model(config(**towers, projection_dim=6))

    return build


def _siglip() -> nn.Module:
    text = TEXT | {"projection_size": 8}
    return tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=IMAGE))


def _siglip2() -> nn.Module:
    text = TEXT | {"projection_size": 8}
    return tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=PATCHES))


def _dual() -> nn.Module:
    vision, text = tf.ViTConfig(**IMAGE), tf.BertConfig(**TEXT)
    build = tf.VisionTextDualEncoderConfig.from_vision_text_configs
    return tf.VisionTextDualEncoderModel(build(vision, text, projection_dim=6))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "altclip": _like_clip("AltCLIP", project_dim=8, max_position_embeddings=18),
    "blip": _like_clip("Blip", encoder_hidden_size=8, sep_token_id=END),
    "chinese_clip": _like_clip("ChineseCLIP"),
    "clip": _like_clip("CLIP"),
    "clip, old": _like_clip("CLIP", eos_token_id=2),
    "clipseg": _like_clip("CLIPSeg"),
    "dual": _dual,
    "metaclip_2": _like_clip("MetaClip2"),
    "owlvit": _like_clip("OwlViT"),
    "siglip": _siglip,
    "siglip2": _siglip2,
}


def _save(
    directory: Path, build: Callable[[], nn.Module], **tokenizer: Any
) -> nn.Module:
    torch.manual_seed(0)
    module: Any = build().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    module.save_pretrained(directory)
    tiny_tokenizer("<s> $A </s>").save_pretrained(directory)
    settings = directory / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | tokenizer))
    return module


def _text_features(module: Any, directory: Path) -> torch.Tensor:
    """By the model's own method, of texts padded as its own processor pads them."""
    padding = "max_length" if "Siglip" in type(module).__name__ else True
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(
        TEXTS,
        padding=padding,
        truncation=True,
        max_length=LONGEST,
        return_tensors="pt",
    )
    with torch.no_grad():
        return normalize(
            module.get_text_features(
                batch["input_ids"], batch.get("attention_mask")
            ).pooler_output,
            dim=-1,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_embedded_as_by_the_model_alone_and_in_a_batch(
    tmp_path: Path, family: str
) -> None:
    module = _save(tmp_path, FAMILIES[family])
    network = load_network(str(tmp_path), output_map="clip-text", device="cpu")
    expected = _text_features(module, tmp_path)
    torch.testing.assert_close(encode_texts(network, TEXTS), expected)
    alone = torch.cat([encode_texts(network, [text]) for text in TEXTS])
    torch.testing.assert_close(alone, expected)


def test_a_model_without_a_text_tower_says_how_to_classify(tmp_path: Path) -> None:
    network = load_network(str(models.save_tiny_vit(tmp_path / "vit")), device="cpu")
    with pytest.raises(SourceError, match="no text tower; classify by --head prot"):
        encode_texts(network, TEXTS)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"siglip2"}))
def test_images_are_embedded_as_by_the_model(tmp_path: Path, family: str) -> None:
    module: Any = _save(tmp_path, FAMILIES[family])
    network = load_network(str(tmp_path), device="cpu")
    pixels = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        expected = module.get_image_features(pixel_values=pixels).pooler_output
        found = network({"pixel_values": pixels})
    torch.testing.assert_close(found, normalize(expected, dim=-1))


@pytest.mark.parametrize("names", [["input_ids"], ["input_ids", "attention_mask"]])
@pytest.mark.parametrize("side", ["left", "right"])
def test_siglip_is_given_what_its_own_tokenizer_makes(
    tmp_path: Path, names: list[str], side: str
) -> None:
    module = _save(tmp_path, _siglip, model_input_names=names, padding_side=side)
    network = load_network(str(tmp_path), output_map="clip-text", device="cpu")
    encoder = load_text_encoder(network)
    batch = encoder([("a dog",)])
    assert sorted(batch) == sorted(names)
    assert batch["input_ids"].shape == (1, LONGEST)
    assert encoder.configuration["padding"] == "max_length"
    torch.testing.assert_close(
        encode_texts(network, TEXTS), _text_features(module, tmp_path)
    )


@pytest.mark.parametrize("build", [_siglip, _siglip2])
def test_factors_of_texts_padded_to_the_maximum_know_no_batches(
    tmp_path: Path, build: Callable[[], nn.Module]
) -> None:
    _save(tmp_path / "m", build)
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(TEXTS * 3))
    network = load_network(str(tmp_path / "m"), output_map="clip-text", device="cpu")
    examples = load_examples(str(tmp_path / "t.csv"), network)
    one, many = (compute(network, examples, batch_size=size) for size in (1, 12))
    text = {n for n in network.parameters() if n.startswith("text_model")}
    assert set(one.parameters) == text
    assert one.blocks == many.blocks
    for name, factor in one.factors.items():
        torch.testing.assert_close(
            factor.to_dense(), many.factors[name].to_dense(), rtol=1e-4, atol=1e-7
        )


def test_siglip_takes_texts_of_one_length_only(tmp_path: Path) -> None:
    _save(tmp_path, _siglip)
    network = load_network(str(tmp_path), output_map="clip-text")
    with pytest.raises(SourceError, match=r"max_length 8: .* padded to all of its 16"):
        load_text_encoder(network, 8)
    assert load_text_encoder(network, LONGEST).max_length == LONGEST


def test_images_of_any_size_are_refused_by_name(tmp_path: Path) -> None:
    _save(tmp_path / "both", _siglip2)
    for name in (None, "clip-image"):
        with pytest.raises(SourceError, match="Siglip2Model takes images of any size"):
            load_network(str(tmp_path / "both"), output_map=name)
    _save(
        tmp_path / "tower",
        lambda: tf.Siglip2VisionModel(tf.Siglip2VisionConfig(**PATCHES)),
    )
    with pytest.raises(SourceError, match="Siglip2VisionModel takes images of any"):
        load_network(str(tmp_path / "tower"))


def _flava() -> nn.Module:
    towers = {"text_config": TEXT, "image_config": IMAGE, "multimodal_config": WIDTHS}
    return tf.FlavaModel(tf.FlavaConfig(**towers, projection_dim=6, hidden_size=8))


def _xclip() -> nn.Module:
    frames = {"mit_hidden_size": 8, "mit_intermediate_size": 8, "num_frames": 2}
    vision = IMAGE | frames | {"mit_num_attention_heads": 2}
    prompts = {"prompt_layers": 1, "prompt_num_attention_heads": 2}
    config = tf.XCLIPConfig(
        text_config=TEXT, vision_config=vision, projection_dim=6, **prompts
    )
    return tf.XCLIPModel(config)


@pytest.mark.parametrize("build", [_flava, _xclip])
def test_models_without_one_embedding_are_refused_by_name(
    tmp_path: Path, build: Callable[[], nn.Module]
) -> None:
    module = _save(tmp_path, build)
    with pytest.raises(SourceError, match=f"a {type(module).__name__} has no embed"):
        load_network(str(tmp_path))


def test_texts_whose_embedding_depends_on_their_batch_are_refused(
    tmp_path: Path,
) -> None:
    """AIMv2 looks ahead in a text if no text beside it is longer."""
    _save(tmp_path, _like_clip("Aimv2"))
    network = load_network(str(tmp_path), output_map="clip-text")
    with pytest.raises(CoverageError, match="'clip-text' depends on the batch"):
        encode_texts(network, TEXTS)
