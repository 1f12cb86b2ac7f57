"""Hessians by the code of BayesVLM, against the Gramian of f = 2√p of its softmax."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.bridges import About, Naming
from kfac_artifacts.bridges.imports.bayesvlm import BayesVlm
from kfac_artifacts.errors import FormatError, SettingsError
from tests.bridges.made import (
    FILES,
    LOGIT_SCALE,
    tak_images,
    tiny_vision_tower,
    vlm_texts,
)
from tests.bridges.oracle import EXACT, OWN, require_same

PATH = FILES / "bayesvlm"
IMAGES = About(examples=5, output_map=OWN, naming=Naming(left_out=("txt",)))


def contrastive() -> kfac.Network:
    """Its Gramian is the Hessian of the contrastive loss: the Fisher matrix of p."""
    texts = nn.functional.normalize(vlm_texts(), dim=-1)

    def roots(module: nn.Module, batch: kfac.network.Batch) -> Tensor:
        images = nn.functional.normalize(module(**batch).image_embeds, dim=-1)
        logits = images @ texts.mT * torch.tensor(LOGIT_SCALE).exp()
        return 2 * logits.softmax(-1).sqrt()

    return kfac.Network(tiny_vision_tower(), kfac.OutputMap(OWN, roots), "tiny/clip")


def test_the_projection_of_images_is_that_of_its_likelihood() -> None:
    found = BayesVlm().convert(PATH, contrastive(), IMAGES)
    examples = kfac.TensorExamples({"pixel_values": tak_images()}, "images")
    only = ("visual_projection.weight",)
    expected = kfac.compute(
        contrastive(), examples, cotangents=EXACT, only=only, allow_few=True
    )
    require_same(found, expected)


def test_the_number_of_examples_has_to_be_said() -> None:
    with pytest.raises(SettingsError, match="how many examples"):
        BayesVlm().convert(PATH, contrastive(), About(output_map=OWN))


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"A": torch.ones(2)}, tmp_path / "A_img_analytic.pt")
    with pytest.raises(FormatError, match="is no tensor"):
        BayesVlm().convert(tmp_path, contrastive(), IMAGES)
