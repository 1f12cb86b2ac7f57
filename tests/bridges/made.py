"""What the files in ``files/`` were made of, by the scripts ``make_*.py``."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.models import IMAGE_SIZE, PATCH_SIZE, image_batch, tiny

FILES = Path(__file__).parent / "files"


def tiny_vision_tower() -> nn.Module:
    """The image tower of a CLIP of OpenAI's kind, with two layers of width 8."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    tower = CLIPVisionModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name or "layrnorm" in name
            parameter.copy_(1 + noise if norm and name.endswith("weight") else noise)
    return tower


def tak_images() -> Tensor:
    """Five images."""
    return image_batch(5, torch.float32)["pixel_values"]


class Readout(nn.Module):
    """Two layers that see positions ``[N, T, 4]``, and one that sees their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 5, bias=False)
        self.last = nn.Linear(5, 1)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """One number for each example, so that its one cotangent is 1."""
        return self.last(self.second(self.first(x).tanh()).tanh().mean(1))


def readout_inputs() -> Tensor:
    """Seven examples of three positions."""
    return torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(2))


def tiny_llama() -> nn.Module:
    """Two layers without biases."""
    return tiny("llama", dtype=torch.float32)


def llama_tokens() -> Tensor:
    """Four texts of five tokens."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(4, 28, (4, 5), generator=generator)


def vlm_texts() -> Tensor:
    """Embeddings ``[5, 6]`` of a text for each of the five images."""
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(5))


LOGIT_SCALE = 1.5
"""The logarithm of what cosines are multiplied by."""


def tiny_causal_llama() -> nn.Module:
    """The same layers, with a head that predicts the next token."""
    from transformers import LlamaForCausalLM

    body = tiny_llama()
    model = LlamaForCausalLM(body.config).eval()
    model.model.load_state_dict(body.state_dict())
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        head = model.lm_head.weight
        head.copy_(torch.randn(head.shape, generator=generator) / 2)
    return model
