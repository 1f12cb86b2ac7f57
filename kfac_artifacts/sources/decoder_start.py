"""An encoder-decoder that answers by one token, as T5 classifies text to text.

f is what the head is given at the first position of the decoder, which sees the text
and nothing else. The head's rows of the tokens that the classes' texts begin with are
then a linear classifier: the most probable class is the one whose text the model would
begin to write, among those of all classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.sources.calling import call
from kfac_artifacts.sources.processors import from_pretrained
from kfac_artifacts.task_vector import LinearHead


def start_token(module: Any, model_id: str) -> int:
    """Say which token a decoder begins with.

    Args:
        module: An encoder-decoder of ``transformers``.
        model_id: What to call it in the error.

    Returns:
        Its number.

    Raises:
        SourceError: If the configuration does not tell.
    """
    start = module.config.decoder_start_token_id
    if start is None:
        raise SourceError(
            f"the configuration of {model_id} does not say which token its decoder "
            "begins with (decoder_start_token_id)"
        )
    return int(start)


def start_of_decoder(module: nn.Module, batch: Batch) -> Tensor:
    """Give what the head takes at the first position of the decoder, ``[N, D]``."""
    start, ids = start_token(module, type(module).__name__), batch["input_ids"]
    given: list[Tensor] = []
    head: Any = module.get_output_embeddings()  # type: ignore[operator]
    watching = head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        call(module, batch, decoder_input_ids=torch.full_like(ids[:, :1], start))
    finally:
        watching.remove()
    return given[0][:, 0]


def token_head(
    network: Network, classes: Sequence[str], texts: Sequence[str]
) -> LinearHead:
    """Classify by the token that the text of a class begins with.

    Args:
        network: A network whose f is ``start_of_decoder``.
        classes: Names of the classes.
        texts: A text for each.

    Returns:
        The rows of the model's own head for those tokens.

    Raises:
        SourceError: If two texts begin with the same token, or one has none.
    """
    tokenizer = from_pretrained(AutoTokenizer, network, "tokenizer")
    encoded = tokenizer(text_target=[*texts], add_special_tokens=False)["input_ids"]
    first = [ids[0] if ids else None for ids in encoded]
    for text, token in zip(texts, first, strict=True):
        if token is None or first.count(token) > 1:
            raise SourceError(
                f"the text {text!r} of a class begins with no token of its own, so the "
                "classes cannot be told apart by their first tokens; give other texts "
                "(--class-texts)"
            )
    module: Any = network.module
    head = module.get_output_embeddings()
    bias = (
        getattr(module, "final_logits_bias", None) if head.bias is None else head.bias
    )
    weight = head.weight.detach().float().cpu()[first]
    if bias is None:
        bias = torch.zeros(len(head.weight))
    own = bias.detach().float().cpu().flatten()[first]
    return LinearHead(weight, own, tuple(classes))
