"""``nn.MultiheadAttention`` in an explicit form, whose linear maps can be listened to.

The module hands its weights to one fused function and never calls a Linear. For the
time of a pass it is run in steps: one linear map to queries, keys and values, attention
over heads, and ``out_proj``, called as a module. Where queries, keys and values have
different inputs the map is applied to each, and only its part of the output is used.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, softmax

from kfac_artifacts.capture.layers.base import Layer
from kfac_artifacts.capture.layers.kinds import Found, Kind
from kfac_artifacts.capture.layers.linear import LinearLayer


class InProjection(nn.Module):
    """The map from inputs to queries, keys and values; its parameters are another's."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._owner = (attention,)  # a tuple, so that it is not a submodule

    def forward(self, x: Tensor) -> Tensor:
        """From ``[…, E]`` to ``[…, 3 E]``."""
        return linear(x, self.owner.in_proj_weight, self.owner.in_proj_bias)

    @property
    def owner(self) -> nn.MultiheadAttention:
        """The module whose parameters these are."""
        return self._owner[0]


def obstacle(attention: nn.MultiheadAttention) -> str | None:
    """Say why a module has no explicit form here, if so."""
    if attention.in_proj_weight is None:
        return "nn.MultiheadAttention with separate maps for keys or values"
    if attention.bias_k is not None or attention.bias_v is not None:
        return "nn.MultiheadAttention with a key and value of its own (bias_k, bias_v)"
    if attention.add_zero_attn:
        return "nn.MultiheadAttention with an added zero key (add_zero_attn)"
    if type(attention).forward is not nn.MultiheadAttention.forward:
        return "a kind of nn.MultiheadAttention with a forward of its own"
    return None


@contextmanager
def explicit_attention(module: nn.Module) -> Iterator[Mapping[nn.Module, InProjection]]:
    """Run every ``nn.MultiheadAttention`` in steps for a while.

    Args:
        module: A network; left as it was found.

    Yields:
        The in-projections by their modules.
    """
    found: dict[nn.Module, InProjection] = {
        child: InProjection(child)
        for child in module.modules()
        if isinstance(child, nn.MultiheadAttention) and obstacle(child) is None
    }
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    before = {c: {k: v for k, v in vars(c).items() if k == "forward"} for c in found}
    for child, project in found.items():
        child.forward = partial(_forward, project.owner, project)
    try:
        yield found
    finally:
        for child in found:
            del child.forward
            vars(child).update(before[child])
        torch.backends.mha.set_fastpath_enabled(value=fast)


def _forward(  # noqa: PLR0913, PLR0917 - the signature of torch
    module: nn.MultiheadAttention,
    project: InProjection,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # a hint beside attn_mask
) -> tuple[Tensor, Tensor | None]:
    """Stand in for ``nn.MultiheadAttention.forward``; the arguments are torch's."""
    projected: dict[int, Tensor] = {}
    parts = []
    for third, x in enumerate((query, key, value)):
        if id(x) not in projected:
            projected[id(x)] = project(x)
        part = projected[id(x)].chunk(3, dim=-1)[third]
        part = part if module.batch_first or part.dim() == 2 else part.transpose(0, 1)
        heads = part.unflatten(-1, (module.num_heads, module.head_dim))
        parts.append(heads.transpose(-3, -2))  # [N, H, T, d], or [H, T, d]
    q, k, v = parts
    mask = _added(attn_mask, key_padding_mask, q)
    weights = None
    if need_weights:
        scores = q @ k.mT / math.sqrt(module.head_dim)
        weights = softmax(scores if mask is None else scores + mask, dim=-1)
        z = weights @ v
        weights = weights.mean(-3) if average_attn_weights else weights
    else:
        z = scaled_dot_product_attention(q, k, v, mask)
    z = z.transpose(-3, -2).flatten(-2)
    swapped = query.dim() == 3 and not module.batch_first
    return module.out_proj(z.transpose(0, 1) if swapped else z), weights


def _added(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
) -> Tensor | None:
    """What both masks add to the scores; a true entry of a mask hides a key."""
    mask = None
    if attn_mask is not None:
        mask = _float(attn_mask, q)
        if mask.dim() == 3 and q.dim() == 4:  # [N · H, T, S]
            mask = mask.unflatten(0, q.shape[:2])
    if key_padding_mask is not None:
        padding = _float(key_padding_mask, q)
        padding = padding[:, None, None] if padding.dim() == 2 else padding
        mask = padding if mask is None else mask + padding
    return mask


def _float(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)


def attention(module: nn.Module) -> Found:
    """The in-projection of an ``nn.MultiheadAttention``; its ``out_proj`` is Linear."""
    if not isinstance(module, nn.MultiheadAttention):
        return None
    roles = {"in_proj_weight": "weight", "in_proj_bias": "bias"}
    return obstacle(module) or Kind(_in_projection, roles)


def _in_projection(name: str, parameters: dict[str, str]) -> Layer:
    lone = name == parameters["weight"]
    return LinearLayer(name if lone else f"{name}.in_proj", parameters)
