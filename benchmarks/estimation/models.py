"""The models that are measured: real sizes, random weights, one tensor in, f out.

Speed does not depend on the values of weights and inputs, so nothing is downloaded.
f is the L2-normalised embedding: projected for a CLIP vision tower, mean-pooled for a
BERT. Everything is drawn from one seed, so every process holds the same model and the
same examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from estimation.config import SIZES, Case, Size
from kfac_artifacts.capture import gaussian

VOCABULARY = 30522
SEED = 0


class Embedder(nn.Module):
    """f: one tensor of N examples to ``[N, C]``."""

    def __init__(self, model: nn.Module, stem: nn.Module, *, images: bool) -> None:
        super().__init__()
        self.model = model
        self._stem = [stem]  # in a list, so that it is not registered twice
        self._images = images

    @property
    def stem(self) -> nn.Module:
        """The module that puts out the first hidden state."""
        return self._stem[0]

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch."""
        if self._images:
            pooled = self.model(pixel_values=x).image_embeds
        else:
            pooled = self.model(input_ids=x).last_hidden_state.mean(1)
        return nn.functional.normalize(pooled, dim=-1)


@dataclass(frozen=True)
class Workload:
    """A model and its examples.

    Attributes:
        case: What is measured.
        f: The model, on the device, in evaluation mode.
        x: The examples, on the CPU.
        linears: Names of the Linear layers of ``f``: what every tool covers.
    """

    case: Case
    f: Embedder
    x: Tensor
    linears: tuple[str, ...]

    def batches(self, count: int) -> Iterator[Tensor]:
        """The first ``count`` examples, batch by batch, on the device."""
        for batch in self.x[:count].split(self.case.batch_size):
            yield batch.to(self.case.device)

    def cotangents(self, count: int) -> Tensor:
        """What this package draws for the first examples, ``[count, C]``."""
        with torch.no_grad():
            width = self.f(self.x[:1].to(self.case.device)).shape[1]
        return torch.stack([gaussian((SEED, i, 0), width) for i in range(count)])


def workload(case: Case) -> Workload:
    """Build the model and the examples of a case."""
    size = SIZES[case.model]
    torch.manual_seed(SEED)
    f = _text(size, case.layers) if size.patch is None else _vision(size, case.layers)
    f.eval().to(case.device)
    if size.tokens is None:
        x = torch.randn(case.examples, 3, 224, 224)
    else:
        x = torch.randint(VOCABULARY, (case.examples, size.tokens))
    linears = (n for n, m in f.named_modules() if isinstance(m, nn.Linear))
    return Workload(case, f, x, tuple(linears))


def _vision(size: Size, layers: int) -> Embedder:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=layers,
        num_attention_heads=size.width // 64,
        image_size=224,
        patch_size=size.patch,
        projection_dim=512,
    )
    model = CLIPVisionModelWithProjection(config)
    return Embedder(model, model.vision_model.pre_layrnorm, images=True)


def _text(size: Size, layers: int) -> Embedder:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, size.width // 64),
        max_position_embeddings=size.tokens,
    )
    model = BertModel(config, add_pooling_layer=False)
    return Embedder(model, model.embeddings, images=False)
