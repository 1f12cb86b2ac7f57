"""The language model that is measured, and texts of random tokens for it.

Of every tool the same linear maps are asked for: all but the one that gives the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.capture import Drawing
from kfac_artifacts.sources import output_map

SEED = 0
DRAWN = Cotangents("labels", 1, SEED)
FIRST_WORD = 4
"""The tokens before it are special ones in many vocabularies."""
SMALL = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "vocab_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "vocab_size": 300,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SIZES = {"small": SMALL, "tiny": TINY}
"""Configurations of models with random weights."""
REAL = "smollm2"


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        model: A key of ``SIZES``, or ``smollm2``.
        examples: Number of texts, a multiple of the batch size.
        tokens: Of every text.
        batch_size: Texts per pass.
        device: Where to compute.
        threads: Number of threads on the CPU.
    """

    model: str
    examples: int
    tokens: int
    batch_size: int
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Workload:
    """A model and its texts.

    Attributes:
        case: What is measured.
        module: The model, in evaluation mode.
        network: The same with its output map.
        x: The texts, ``[examples, tokens]``.
        linears: Names of the linear maps that every tool covers.
    """

    case: Case
    module: Any
    network: kfac.Network
    x: Tensor
    linears: tuple[str, ...]

    def batches(self, count: int) -> Iterator[Tensor]:
        """The first texts, batch by batch."""
        yield from self.x[:count].split(self.case.batch_size)

    def labels(self, count: int) -> Tensor:
        """What this package draws for every token but the last, ``[count, T - 1]``."""
        words = self.module.config.vocab_size
        drawing = Drawing(DRAWN, range(count), words)
        found = []
        for start in range(0, count, self.case.batch_size):
            rows = range(start, min(start + self.case.batch_size, count))
            with torch.no_grad():
                f = self.network({"input_ids": self.x[rows]})
            (s,) = drawing.vectors(rows, f)
            found.append(s.view(len(rows), -1, words).argmax(-1)[:, :-1])
        return torch.cat(found)


def workload(case: Case) -> Workload:
    """Build the model and the texts of a case."""
    module = language_model(case.model)
    words = module.config.vocab_size
    drawn = torch.Generator().manual_seed(SEED)
    x = torch.randint(FIRST_WORD, words, (case.examples, case.tokens), generator=drawn)
    head = module.get_output_embeddings()
    linears = tuple(
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    )
    network = kfac.Network(module, output_map(module, "lm-fisher"), "benchmark")
    return Workload(case, module, network, x, linears)


def language_model(name: str) -> Any:
    """A model of random weights, or SmolLM2-135M-Instruct; in float32."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if name == REAL:
        from assets import smollm2

        real = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32)
        return real.eval()
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(**SIZES[name])).eval()
