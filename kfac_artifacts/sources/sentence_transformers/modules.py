"""The modules of ``sentence-transformers`` behind an encoder, as a part of f.

They compute what those of that library compute, and load its files. Their weights are
constants of f: they belong to the output map, not to the network that is covered.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kfac_artifacts.network import Batch
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.sentence_transformers.pooling import (
    MODES,
    POOLED,
    real_positions,
)

Features: TypeAlias = dict[str, Any]

SENTENCE, TOKENS, LAYERS = "sentence_embedding", "token_embeddings", "all_layers"


class Pooling(nn.Module):
    """Pools the tokens in one or several ways, which are joined."""

    def __init__(self, modes: Sequence[str]) -> None:
        super().__init__()
        self.modes = tuple(modes)

    def forward(self, features: Features) -> Features:
        """Add the embedding of the sentence."""
        mask, pooled = features["attention_mask"], features[POOLED]
        parts = [MODES[m](features[TOKENS], pooled, mask) for m in self.modes]
        return features | {SENTENCE: torch.cat(parts, dim=-1)}


class Dense(nn.Module):
    """A linear map with an activation, and perhaps what goes round it."""

    def __init__(self, config: Mapping[str, Any], activation: nn.Module) -> None:
        super().__init__()
        d_in, d_out = config["in_features"], config["out_features"]
        self.source = config.get("module_input_name") or SENTENCE
        self.target = config.get("module_output_name") or self.source
        self.linear = nn.Linear(d_in, d_out, bias=config.get("bias", True))
        self.activation_function = activation
        self.round = bool(config.get("use_residual"))
        if self.round and d_in != d_out:
            self.residual = nn.Linear(d_in, d_out, bias=False)

    def forward(self, features: Features) -> Features:
        """Map its input."""
        x = features[self.source]
        output = self.activation_function(self.linear(x))
        if self.round:
            output = output + (self.residual(x) if hasattr(self, "residual") else x)
        return features | {self.target: output}


class LayerNorm(nn.Module):
    """Normalises the embedding of the sentence over its numbers."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Normalise."""
        return features | {SENTENCE: self.norm(features[SENTENCE])}


class Normalize(nn.Module):
    """Gives an embedding unit length."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, features: Features) -> Features:
        """Normalise, if there is something to."""
        if self.source not in features:
            return features
        return features | {self.target: normalize(features[self.source], dim=-1)}


class WeightedLayerPooling(nn.Module):
    """Averages the tokens over layers, if the encoder gives all of them."""

    def __init__(self, layers: int, start: int) -> None:
        super().__init__()
        self.start = start
        self.layer_weights = nn.Parameter(torch.ones(layers + 1 - start))

    def forward(self, features: Features) -> Features:
        """Replace the tokens by their average."""
        if LAYERS not in features:
            return features
        weights = self.layer_weights
        layers = torch.stack(features[LAYERS])[self.start :]
        average = torch.einsum("l,lntd->ntd", weights, layers) / weights.sum()
        return features | {TOKENS: average}


class Chain(nn.Module):
    """All modules behind an encoder, in order: from encoder and batch to f.

    Args:
        steps: The modules by the names of their folders.
        all_layers: Whether the encoder is asked for the hidden states of every layer.
        dimensions: How many numbers of the embedding are kept; None for all.
        includes_prompt: Whether the tokens of a prompt are pooled.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        *,
        all_layers: bool,
        dimensions: int | None,
        includes_prompt: bool,
    ) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step)
        self.names = tuple(steps)
        self.all_layers = all_layers
        self.dimensions = dimensions
        self.includes_prompt = includes_prompt
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        """Compute the embedding of every example, ``[N, C]``."""
        inputs = {name: value for name, value in batch.items() if name != POOLED}
        options = {"output_hidden_states": True} if self.all_layers else {}
        outputs = call(module, inputs, **options)
        tokens = outputs.last_hidden_state
        mask = real_positions(tokens, batch)
        features: Features = {TOKENS: tokens, "attention_mask": mask}
        features[POOLED] = batch.get(POOLED, mask)
        if self.all_layers:
            features[LAYERS] = outputs.hidden_states
        for name in self.names:
            features = getattr(self, name)(features)
        return features[SENTENCE][:, : self.dimensions]
