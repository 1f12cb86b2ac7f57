"""The page of output maps and preprocessings against what this package writes."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kfac_artifacts.network import TensorExamples
from kfac_artifacts.sources import load_network
from kfac_artifacts.sources.encode import RECORDED, load_image_encoder
from kfac_artifacts.sources.language.chats import ChatEncoder
from kfac_artifacts.sources.language.continuations import ContinuationEncoder
from kfac_artifacts.sources.language.masking import MaskingEncoder
from kfac_artifacts.sources.language.packing import PACKED
from kfac_artifacts.sources.language.targets import TargetEncoder
from kfac_artifacts.sources.model_heads import Head
from kfac_artifacts.sources.output_maps import OUTPUT_MAPS, RAW
from kfac_artifacts.sources.sentence_transformers import NAME
from kfac_artifacts.sources.sentence_transformers.building import BUILDERS
from kfac_artifacts.sources.sentence_transformers.pooling import MODES
from kfac_artifacts.sources.texts import TextEncoder
from tests.models import SavedModel

PAGE = (Path(__file__).parents[2] / "spec/output_maps.md").read_text()
SIZES = {"in_features": 2, "out_features": 3, "dimension": 2}
FULL: dict[str, Any] = {
    **SIZES,
    "use_residual": True,
    "module_input_name": "token_embeddings",
    "include_prompt": False,
}
"""Settings of a module that leave nothing as it usually is."""


def section(number: str) -> str:
    """A section of the page, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(number)}\.? .*\n((?:(?!#).*\n)*)", PAGE, re.M)
    assert found is not None
    return found[1]


def column(text: str, index: int = 0) -> list[str]:
    """The code words in a column of the tables of a section."""
    cells = [line.split("|")[1 + index] for line in text.splitlines() if "|" in line]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_every_output_map_is_on_the_page_and_no_other() -> None:
    assert sorted(column(section("1"))) == sorted([*OUTPUT_MAPS, NAME])
    assert f"`{RAW}` behind the name" in PAGE


def test_every_map_of_a_head_is_on_the_page_and_no_other() -> None:
    maps = {name for head in Head for name in head.output_maps}
    assert sorted(column(section("1.2"))) == sorted(maps)


def test_every_module_of_a_chain_is_there_with_its_members() -> None:
    text = section("1.1")
    rows = [line.split("|")[1:4] for line in text.splitlines() if "|" in line]
    members: dict[str, set[str]] = {}
    kind = ""
    for first, second, _ in (row for row in rows if len(row) == 3):
        (kind,) = re.findall(r"`(\w+)`", first) or [kind]
        members.setdefault(kind, set()).update(re.findall(r"`(\w+)`", second))
    for name, build in BUILDERS.items():
        module, settings = build(FULL, "place")
        weights = {"sha256"} if list(module.parameters()) else set()
        assert members[name] == settings.keys() | weights
    assert {"modules", "truncate_dim"} <= {*column(text)}
    assert MODES.keys() <= {*column(text)}


def test_weights_of_a_chain_are_called_as_the_page_says() -> None:
    text = section("1.1")
    for name, build in BUILDERS.items():
        module, _ = build(FULL, "place")
        for tensor in module.state_dict():
            assert f"`{tensor}`" in text, (name, tensor)
    assert [*nn.PReLU().state_dict()] == ["weight"]


def test_every_member_of_the_preprocessing_of_texts_is_there() -> None:
    encoder = TextEncoder(None, 8, "query: ", to_maximum=True, lower_case=True)
    of_heads: list[Any] = [
        ContinuationEncoder(encoder, columns=2),
        MaskingEncoder(encoder, mask=4),
        TargetEncoder(encoder, start=0),
        chat_encoder(encoder),
    ]
    written = {name for each in of_heads for name in each.configuration}
    assert {"columns", PACKED, *written} == {*column(section("2.1"))}


def chat_encoder(encoder: TextEncoder) -> ChatEncoder:
    """One for conversations, before which no prompt can be."""
    tokenizer = SimpleNamespace(chat_template="")
    return ChatEncoder(replace(encoder, tokenizer=tokenizer, prompt=""), "model")


def test_every_member_of_the_preprocessing_of_images_is_there() -> None:
    assert {"column", *RECORDED} == {*column(section("2.2"))}


def test_numbers_of_filters_are_those_of_pil() -> None:
    told = re.findall(r"(\d) (\w+)", section("2.2").partition("number there: ")[2][:90])
    wanted = {f.value: f.name.lower() for f in Image.Resampling}
    assert len(told) == 6
    assert {(int(n), name.lower()) for n, name in told} <= wanted.items()


def test_the_preprocessing_of_tensors_has_no_configuration() -> None:
    how = TensorExamples({"x": torch.zeros(1, 1)}, "mine").info([0]).preprocessing
    assert (how.name, dict(how.configuration)) == ("tensors", {})
    assert "Configuration: empty" in section("2.3")


def test_a_norm_has_the_epsilon_that_the_page_says() -> None:
    module, _ = BUILDERS["LayerNorm"]({"dimension": 4}, "place")
    x = torch.tensor([[1.0, 2.0, 4.0, 9.0]]) * 1e-3
    found = module({"sentence_embedding": x})["sentence_embedding"].detach().numpy()
    centred = x.numpy() - x.numpy().mean()
    wanted = centred / np.sqrt((centred**2).mean() + 1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_normalising_has_the_epsilon_that_the_page_says() -> None:
    module, _ = BUILDERS["Normalize"]({}, "place")
    x = torch.tensor([[3e-14, 4e-14]])
    found = module({"sentence_embedding": x})["sentence_embedding"]
    torch.testing.assert_close(found, x / 1e-12)


def prepared(image: Image.Image, how: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Section 2.2, step by step."""
    if how.get("do_resize"):
        size = how["size"]
        if "shortest_edge" in size:
            short, edge = min(image.size), size["shortest_edge"]
            width, height = (
                edge if side == short else int(edge * side / short)
                for side in image.size
            )
        else:
            width, height = size["width"], size["height"]
        image = image.resize((width, height), Image.Resampling(how["resample"]))
    x = np.asarray(image, dtype=np.float64)
    if how.get("do_center_crop"):
        height, width = how["crop_size"]["height"], how["crop_size"]["width"]
        top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
        x = x[top : top + height, left : left + width]
    if how.get("do_rescale"):
        x = x * how["rescale_factor"]
    if how.get("do_normalize"):
        x = (x - np.array(how["image_mean"])) / np.array(how["image_std"])
    return x.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(9, 8), (31, 12), (12, 31)])
@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_images_are_prepared_as_the_page_says(
    saved_model: SavedModel, kind: str, size: tuple[int, int]
) -> None:
    encoder = load_image_encoder(load_network(saved_model(kind)))
    drawn = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(drawn)
    found = encoder([image])["pixel_values"][0].numpy()
    wanted = prepared(image, encoder.configuration)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
