"""Pretrained ``transformers`` models whose weights are read while they are needed.

``transformers`` loads a checkpoint without numbers, twice. Tensors that write down what
is done to them (``checkpoint.recorded``) show what each parameter is made of, whatever
is renamed or stacked. A model that takes no memory (``checkpoint.probe``) has all that
is computed when it is built, such as frequencies of rotary positions, as it has to be;
its parameters are taken out again.
"""

import inspect
from collections.abc import Mapping
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
    Recorded,
    open_checkpoint,
    record_loading,
    replay,
    stored_name,
    stored_names,
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

FLOAT = torch.float32
NAMED = 3
"""How many parameters an error names at most."""


@dataclass(frozen=True)
class StoredWeights:
    """Parameters that are made of stored tensors.

    Attributes:
        checkpoint: The files.
        made: How each parameter is made.
    """

    checkpoint: Checkpoint
    made: Mapping[str, Recorded]

    def read(self, name: str) -> Tensor:
        """Read a parameter, in float32."""
        parameter = self.made[name]
        stored = stored_name(parameter)
        if stored is not None:
            return self._read(stored)
        return replay(parameter, self._read).contiguous()

    def _read(self, stored: str) -> Tensor:
        return self.checkpoint.load(stored).float()


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
        SourceError: As of ``load_network``, or if a parameter is not made of stored
            tensors alone.
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
    module, made = _skeleton(build_module(location, name), checkpoint, location.id)
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
        weights=StoredWeights(checkpoint, made),
        place=place,
    )


def _skeleton(
    built: Any, checkpoint: Checkpoint, model_id: str
) -> tuple[Any, dict[str, Recorded]]:
    """Build a module whose buffers have numbers, and see how parameters are made."""
    kind, options = type(built), _options(built, checkpoint)
    recorded = record_loading(checkpoint.shapes, kind, built.config, **options)
    stacked = {n: p for n, p in recorded.items() if stored_name(p) is None}
    parts = {name for p in stacked.values() for name in stored_names(p)}
    shapes = {n: s for n, s in checkpoint.shapes.items() if n not in parts}
    # a parameter that is there by its own name is taken as it is, and not made of parts
    probe = Probe(shapes | {n: tuple(p.shape) for n, p in stacked.items()}, FLOAT)
    module = probe.load(kind, built.config, **options)
    names = [name for name, _ in module.named_parameters()]
    lacking = [name for name in names if name not in recorded]
    _require_stored(lacking, kind.__name__, model_id)
    made = {name: recorded[name] for name in names}
    _require_real(made, checkpoint, model_id)
    for part in module.modules():
        for key, buffer in part.named_buffers(recurse=False):
            stored = probe.name_of(buffer)
            if stored is not None:
                part._buffers[key] = checkpoint.load(stored).to(buffer.dtype)
    _empty(module)
    return module, made


def _options(built: Any, checkpoint: Checkpoint) -> dict[str, bool]:
    """What else the class is built with: without a pooler that was not saved."""
    optional = "add_pooling_layer" in inspect.signature(type(built)).parameters
    stored = any(".pooler." in f".{name}" for name in checkpoint.shapes)
    return {"add_pooling_layer": False} if optional and not stored else {}


def _require_stored(lacking: list[str], kind: str, model_id: str) -> None:
    if lacking:
        raise SourceError(
            f"{model_id}: {len(lacking)} parameters of {kind} are not made of stored "
            f"tensors, for example {', '.join(lacking[:NAMED])}: the checkpoint lacks "
            "them; compute without --stream (load_network), or load the model and save "
            "it again"
        )


def _require_real(
    made: Mapping[str, Recorded], checkpoint: Checkpoint, model_id: str
) -> None:
    for name, parameter in made.items():
        if any(checkpoint.dtype(stored) is None for stored in stored_names(parameter)):
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
