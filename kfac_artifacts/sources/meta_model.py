"""Models without weights: built from ``config.json`` alone, on torch's meta device.

A tensor of the meta device has a shape and a number type but no numbers, so a network
of any size is built in seconds and takes no memory, and a pass over it shows every
shape without computing anything.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from kfac_artifacts.errors import SourceError, first_line
from kfac_artifacts.network import Network
from kfac_artifacts.sources.architectures import config_options, model_class
from kfac_artifacts.sources.model_heads import Head, head_of
from kfac_artifacts.sources.models import (
    Location,
    chosen_map,
    load_network,
    locate,
    number_type_of,
    read_config,
)
from kfac_artifacts.sources.output_maps import inputs, output_map as find_output_map
from kfac_artifacts.sources.own_models import OwnNetwork, blank_batch, is_function
from kfac_artifacts.sources.positions import check_length, positions_of
from kfac_artifacts.sources.silence_libraries import quiet
from kfac_artifacts.sources.untrusted_config import no_kernels

CONFIGS = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "*sentence_*_config.json",
    "adapter_config.json",
    "[0-9]*/config.json",
)
"""What is downloaded of a model of the Hub: how it is built and pooled."""
DEFAULT_TOKENS = 128
META = torch.device("meta")


def load_skeleton(
    model: str, *, output_map: str | None = None, dtype: str = "float32"
) -> Network:
    """Build the network that ``load_network`` would load, without its weights.

    It may have a pooler that ``load_network`` leaves out, because only the weights tell
    whether there is one.

    Args:
        model: A directory with a ``config.json``, or a Hub id with or without
            ``@revision``; or a function of your own, ``module:function``, whose network
            is loaded as it is.
        output_map: Name of the output map; None for the usual one of the model.
        dtype: What would be computed in.

    Returns:
        The network, in evaluation mode, and on the meta device unless a function of
        yours gave it.

    Raises:
        SourceError: If there is no such model, its architecture is unknown, nothing can
            be built from its configuration, or the output map does not fit.
    """
    number_type = number_type_of(dtype)
    if is_function(model):  # whose tensors are where it wants them
        return load_network(model, output_map=output_map, device="cpu", dtype=dtype)
    location = locate(model, CONFIGS)
    name = chosen_map(location, output_map)
    module = build_module(location, name).to(number_type).eval()
    chosen = find_output_map(module, name)
    return Network(module, chosen, location.id, location.revision)


def blank_examples(
    network: Network,
    count: int,
    *,
    tokens: int | None = None,
    image_size: int | None = None,
) -> dict[str, Tensor]:
    """Make a batch that has the shape of examples and no content.

    Args:
        network: A network of ``load_skeleton``.
        count: Number of examples.
        tokens: Length of every text; None for 128, or what the model takes if less.
        image_size: Height and width of images; None for what the configuration says.

    Returns:
        The model's keyword arguments, on the meta device; or what the user's own
        function encodes.

    Raises:
        SourceError: If the model takes neither texts nor images, or takes no texts of
            this length, or the size of its images is not known; or as of
            ``own_models.blank_batch``.
    """
    if isinstance(network, OwnNetwork):
        return blank_batch(network, count, tokens=tokens, image_size=image_size)
    argument = inputs(network.module, network.output_map.info.name)
    if argument == "input_ids":
        shape: tuple[int, ...] = (count, _length(network, tokens))
        ids = torch.zeros(shape, dtype=torch.long, device=META)
        head = head_of(type(network.module).__name__)
        of_pairs = head is Head.SEQ2SEQ and network.output_map.ragged
        return {argument: ids} | ({"decoder_input_ids": ids} if of_pairs else {})
    if argument == "pixel_values":
        shape = (count, *_image_shape(network, image_size))
        return {argument: torch.zeros(shape, dtype=network.dtype, device=META)}
    raise SourceError(
        f"{network.id} takes {argument}; only models of texts and of images are known"
    )


def build_module(location: Location, output_map: str | None = None) -> Any:
    """Build the module of a model on the meta device, from its configuration alone.

    Args:
        location: Where the model is.
        output_map: Name of the map that f will be; None for one without a head.

    Returns:
        A module of the class that ``load_network`` would load.

    Raises:
        SourceError: If the architecture is unknown or nothing can be built.
    """
    content = read_config(location)
    kind = model_class(content, location.id, output_map)
    explicit = issubclass(kind, PreTrainedModel)
    configuration = kind.config_class if explicit else AutoConfig
    build = kind._from_config if explicit else kind.from_config
    try:
        with quiet(), no_kernels(), META:
            config = configuration.from_pretrained(
                str(location.encoder), **config_options(kind, content)
            )
            return _unwarned(build(config))
    except Exception as error:  # a wrong configuration may fail anywhere
        raise SourceError(
            f"{location.id}: no model can be built from its config.json "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _unwarned(module: Any) -> Any:
    """Keep models from looking for padding, to warn of it: there are no numbers."""
    parts: list[Any] = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    for part in parts:
        part.warn_if_padding_and_no_attention_mask = _unheard
    return module


def _unheard(*_: Any) -> None:
    """Say nothing."""


def _length(network: Network, tokens: int | None) -> int:
    if tokens is not None:
        check_length(network, tokens, "tokens")
        return tokens
    return min(DEFAULT_TOKENS, positions_of(network.module))


def _image_shape(network: Network, size: int | None) -> tuple[int, int, int]:
    config: Any = network.module.config
    config = getattr(config, "vision_config", config)
    found = getattr(config, "image_size", None) if size is None else size
    if found is None:
        raise SourceError(
            f"the config.json of {network.id} does not say how large its images are; "
            "give their height and width in pixels with --image-size"
        )
    height, width = (found, found) if isinstance(found, int) else found
    return getattr(config, "num_channels", 3), height, width
