"""Which attention mask holds where in a network with an encoder and a decoder.

The batch's mask tells which of the encoder's positions are real. A decoder has
positions of its own, even where there happen to be as many; only what it reads from the
encoder, for cross-attention, has the encoder's.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.capture.padding import Masks


class Stages:
    """Follows a forward pass from the encoder to the decoder.

    Args:
        mask: The batch's attention mask, ``[N, T]``, or None if all are real.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._encoder = self._now = Masks(mask)
        self._memory: Tensor | None = None

    def masks_of(self, x: Tensor) -> Masks:
        """The masks of the positions of a layer's input at this stage of the pass."""
        memory = self._memory
        if memory is not None and x.shape == memory.shape:
            return self._encoder if x.data_ptr() == memory.data_ptr() else self._now
        return self._now

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Follow the passes through a network.

        Args:
            module: The network; left as it was found.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            for part in module.modules():
                children = dict(part.named_children())
                if {"encoder", "decoder"} <= children.keys():
                    for name, hook in (
                        ("encoder", self._on_encoder),
                        ("decoder", self._on_decoder),
                    ):
                        handle = children[name].register_forward_pre_hook(
                            hook, with_kwargs=True
                        )
                        stack.callback(handle.remove)
            yield

    def _on_encoder(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._now, self._memory = self._encoder, None

    def _on_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        memory = kwargs.get("encoder_hidden_states")
        if memory is None:
            return
        mask = kwargs.get("attention_mask")
        if mask is None:
            own = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
            given = next(x for x in own if x is not None)
            mask = torch.ones(given.shape[:2], device=given.device)
        self._memory, self._now = memory, Masks(mask.bool())
