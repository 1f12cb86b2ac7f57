"""Pretrained ``transformers`` models whose weights are read while they are needed.

``transformers`` loads a checkpoint without numbers (``checkpoint.probe``): so it is
known which stored tensor is which parameter, whatever it renames, and all that is
computed when a model is built, such as frequencies of rotary positions, is as it has to
be. Then the parameters are taken out again.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.errors import SourceError
from kfac_artifacts.estimate import StreamedNetwork
from kfac_artifacts.sources.checkpoint import (
    Checkpoint,
    Probe,
    addresses,
    open_checkpoint,
)
from kfac_artifacts.sources.meta_model import META, build_module
from kfac_artifacts.sources.models import (
    chosen_map,
    device_of,
    locate,
    number_type_of,
)
from kfac_artifacts.sources.output_maps import output_map as find_output_map
from kfac_artifacts.sources.own_models import is_function

LARGEST_COPY = 2**24
"""Numbers of a stored tensor, at most, of which loading makes a copy."""
NAMED = 3
"""How many parameters an error names at most."""


@dataclass(frozen=True)
class StoredWeights:
    """Parameters that are stored as they are.

    Attributes:
        checkpoint: The files.
        names: What each parameter is called there.
    """

    checkpoint: Checkpoint
    names: Mapping[str, str]

    def read(self, name: str) -> Tensor:
        """Read a parameter, in float32."""
        return self.checkpoint.load(self.names[name]).float()


def load_streamed(
    model: str | Path,
    *,
    output_map: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    model_id: str | None = None,
) -> StreamedNetwork:
    """Open a model larger than memory: ``compute`` reads a block of it at a time.

    Args:
        model: A directory in the layout of ``transformers``, or a Hub id.
        output_map: As of ``load_network``.
        device: Where to compute; ``auto`` takes a GPU if there is one.
        dtype: What to compute in.
        model_id: What to call the model in artifacts.

    Returns:
        The network, its weights in their files.

    Raises:
        SourceError: As of ``load_network``, or if a parameter is not stored as it is.
    """
    number_type, place = number_type_of(dtype), device_of(device)
    if is_function(model):
        raise SourceError(
            f"{model} loads its weights itself; streaming takes a checkpoint of "
            "transformers, in safetensors"
        )
    location = locate(str(model))
    name = chosen_map(location, output_map)
    checkpoint = open_checkpoint(location.encoder, location.id)
    module, names = _skeleton(build_module(location, name), checkpoint, location.id)
    module.name_or_path = str(location.encoder)  # where its tokenizer is
    module = module.to(number_type).eval()
    for part in module.modules():
        for key, buffer in part._buffers.items():
            part._buffers[key] = None if buffer is None else buffer.to(place)
    chosen = find_output_map(module, name)
    if isinstance(chosen.apply, nn.Module):
        chosen.apply.to(device=place, dtype=number_type)
    return StreamedNetwork(
        module,
        chosen,
        model_id or location.id,
        location.revision,
        weights=StoredWeights(checkpoint, names),
        place=place,
    )


def _skeleton(
    built: Any, checkpoint: Checkpoint, model_id: str
) -> tuple[Any, dict[str, str]]:
    """Build a module whose buffers have numbers, and say where its parameters are."""
    probe, kind = Probe(checkpoint.shapes, torch.float32), type(built)
    options = _options(built, checkpoint)
    module = probe.load(kind, built.config, **options)
    names = {name: probe.name_of(p) for name, p in module.named_parameters()}
    missing = {n: p for n, p in module.named_parameters() if names[n] is None}
    if missing:
        numbered = _number(probe, missing, checkpoint.shapes.keys() - names.values())
        loaded = dict(probe.load(kind, built.config, **options).named_parameters())
        names |= {name: _copied(loaded[name], numbered) for name in missing}
    found = {name: stored for name, stored in names.items() if stored is not None}
    _require_stored(sorted(names.keys() - found.keys()), kind.__name__, model_id)
    _require_real(found, checkpoint, model_id)
    for part in module.modules():
        for key, buffer in part.named_buffers(recurse=False):
            stored = probe.name_of(buffer)
            if stored is not None:
                part._buffers[key] = checkpoint.load(stored).to(buffer.dtype)
    _empty(module)
    return module, found


def _options(built: Any, checkpoint: Checkpoint) -> dict[str, bool]:
    """What else the class is built with: without a pooler that was not saved."""
    optional = "add_pooling_layer" in inspect.signature(type(built)).parameters
    stored = any(".pooler." in f".{name}" for name in checkpoint.shapes)
    return {"add_pooling_layer": False} if optional and not stored else {}


def _number(
    probe: Probe, lacking: Mapping[str, Tensor], free: Iterable[str]
) -> dict[str, Tensor]:
    """Number what is stored of tensors that some parameters may be copies of.

    Args:
        probe: The checkpoint without numbers; they are written into it.
        lacking: The parameters.
        free: Names of the stored tensors that are no parameter.

    Returns:
        The numbers of each of those that have the shape of a parameter.
    """
    shapes, first, found = {p.shape for p in lacking.values()}, 1, {}
    for name in sorted(free):
        like = probe.tensors[name]
        if like.shape in shapes and like.numel() <= LARGEST_COPY:
            probe.number(name, first)
            found[name] = torch.arange(first, first + like.numel()).view(like.shape)
            first += like.numel()
    return found


def _copied(parameter: Tensor, numbered: Mapping[str, Tensor]) -> str | None:
    """Name of the stored tensor that a loaded parameter is a copy of."""
    places = addresses(parameter).view(parameter.shape) + 1
    return next((n for n, own in numbered.items() if torch.equal(places, own)), None)


def _require_stored(lacking: list[str], kind: str, model_id: str) -> None:
    if lacking:
        raise SourceError(
            f"{model_id}: {len(lacking)} parameters of {kind} are no stored tensors, "
            f"for example {', '.join(lacking[:NAMED])}: the checkpoint lacks them, or "
            "loading makes them of several, as of experts, so that they cannot be read "
            "by themselves; compute without --stream (load_network), or load the model "
            "and save it again"
        )


def _require_real(
    names: Mapping[str, str], checkpoint: Checkpoint, model_id: str
) -> None:
    for name, stored in names.items():
        if checkpoint.dtype(stored) is None:
            raise SourceError(
                f"{model_id}: {name} does not hold plain real numbers; quantised "
                "weights cannot be streamed"
            )


def _empty(module: nn.Module) -> None:
    """Take the parameters out of a module; those that are tied stay tied."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for key, p in part._parameters.items():
            if p is not None:
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(p.detach().to(META), requires_grad=True)
                part._parameters[key] = made[id(p)]
