"""Low-rank adapters of ``peft``, as changes of the weights that they are for.

The change of a weight is ``Σ_a s_a V_a U_a`` over the active adapters, V being
``lora_B`` and U ``lora_A``. ``peft`` keeps s in ``scaling``: ``lora_alpha / r`` (Hu et
al. 2022), or ``lora_alpha / √r`` (rsLoRA: Kalajdzievski 2023). Whatever is computed in
another way is refused by name: its penalty would be of something else.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.errors import CoverageError, MismatchError, listed
from kfac_artifacts.tuning.forms import LowRankChange
from kfac_artifacts.tuning.naming import unwrapped

_OTHER_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
"""Initialisations that take the first product out of the weights, or freeze a part."""
_KINDS = "Linear, Embedding, Conv1d, Conv2d, Conv3d"


@dataclass(frozen=True, eq=False)
class Adapted:
    """A weight with adapters.

    Attributes:
        path: Path of its layer in the model.
        layer: The layer of ``peft``.
    """

    path: str
    layer: Any

    @property
    def weight(self) -> Tensor:
        """The pretrained weight."""
        weight: Tensor = self.layer.get_base_layer().weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The pretrained bias, if the layer has one."""
        return getattr(self.layer.get_base_layer(), "bias", None)

    @property
    def adapters(self) -> list[str]:
        """The active adapters that this layer has."""
        return [n for n in self.layer.active_adapters if n in self.layer.scaling]

    @property
    def quantised(self) -> bool:
        """Whether the numbers of the weight are not those of the model any more."""
        return not self.weight.is_floating_point() or hasattr(
            self.weight, "quant_state"
        )

    def moves_bias(self) -> bool:
        """Whether an adapter adds to the output of the layer."""
        return any(self.layer.lora_bias.get(name) for name in self.adapters)

    def change(self, bias: Tensor | None) -> LowRankChange:
        """The change of the weight as a product.

        Args:
            bias: By how much the bias has moved beside the adapters, ``[d_out]``; None
                if the block has none, or it stands still.

        Returns:
            The product, of the parameters themselves where that can be.

        Raises:
            MismatchError: If an adapter was merged into the weight.
        """
        if self.layer.merged:
            raise MismatchError(
                f"the adapters {', '.join(self.layer.merged_adapters)} are merged into "
                f"the weight of {self.path}; call unmerge_adapter() while training"
            )
        names = self.adapters
        pairs = [self._pair(name) for name in names]
        scales = [float(self.layer.scaling[name]) for name in names]
        if not pairs:  # none is active: nothing changes but, if so, the bias
            V, U = self._pair(next(iter(self.layer.scaling)))
            pairs = [(V.new_zeros(len(V), 1), U.new_zeros(1, U.shape[1]))]
            scales = [1.0]
        moves = bias is not None or self.moves_bias()
        if len(pairs) == 1 and not moves:
            return LowRankChange(*pairs[0], scales[0])
        left = [scale * V for scale, (V, _) in zip(scales, pairs, strict=True)]
        right = [U for _, U in pairs]
        if moves:
            left.append(self._moved(bias, like=left[0])[:, None])
            right = [nn.functional.pad(U, (0, 1)) for U in right]
            constant = torch.zeros_like(right[0][:1])
            constant[:, -1] = 1  # the input of the bias
            right.append(constant)
        return LowRankChange(torch.cat(left, 1), torch.cat(right))

    def _moved(self, bias: Tensor | None, like: Tensor) -> Tensor:
        """By how much the bias has moved, adapters and all."""
        total = like.new_zeros(len(like)) if bias is None else bias.to(like)
        for name in self.adapters:
            if self.layer.lora_bias.get(name):
                total = total + self.layer.scaling[name] * self.layer.lora_B[name].bias
        return total

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        """V and U of an adapter, as matrices."""
        if name in self.layer.lora_embedding_A:
            return self.layer.lora_embedding_B[name], self.layer.lora_embedding_A[name]
        V, U = self.layer.lora_B[name].weight, self.layer.lora_A[name].weight
        return (V, U) if U.ndim == 2 else (V.flatten(1), U.flatten(1))


def adapted_layers(model: nn.Module) -> Iterator[Adapted]:
    """Find the layers of a model that have active adapters.

    Args:
        model: A model; ``peft`` need not be installed if it did not make it.

    Yields:
        The layers.

    Raises:
        CoverageError: If an adapter changes a weight in another way.
    """
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:
        return
    _check_starts(model)
    holders = _holders(model)
    for path, layer in model.named_modules():
        if not isinstance(layer, tuners.BaseTunerLayer):
            continue
        found = Adapted(path, layer)
        _check_kind(path, layer)
        if not found.adapters:
            continue
        others = holders[id(found.weight)] - {unwrapped(path)}
        if others:
            raise CoverageError(
                f"{path} has an adapter, and its weight is that of {listed([*others])} "
                "as well, which the adapter does not change; their curvature is of "
                "both together. Leave it out of target_modules"
            )
        yield found


def _check_starts(model: nn.Module) -> None:
    """Refuse initialisations after which the base weights are not the pretrained."""
    for name, config in (getattr(model, "peft_config", None) or {}).items():
        start = getattr(config, "init_lora_weights", True)
        if isinstance(start, str) and start.lower().startswith(_OTHER_STARTS):
            raise CoverageError(
                f"adapter {name} was begun by init_lora_weights={start!r}, after which "
                "the change from the pretrained weights is not the product of its "
                "matrices; take init_lora_weights=True, 'gaussian', 'eva' or "
                "'orthogonal'"
            )


def _check_kind(path: str, layer: Any) -> None:
    """Refuse layers whose change is not ``s V U``."""
    lora: Any = sys.modules.get("peft.tuners.lora.layer")
    kind = type(layer)
    plain = lora is not None and isinstance(layer, lora.LoraLayer)
    own = kind.__module__.startswith("peft.tuners.lora.")
    if not plain or not own or kind.__name__ in {"MultiheadAttention", "ParamWrapper"}:
        raise CoverageError(
            f"{path} has an adapter of kind {kind.__module__}.{kind.__name__}, of "
            f"which no penalty is known; LoRA of {_KINDS} layers has one"
        )
    for name, variant in layer.lora_variant.items():
        raise CoverageError(
            f"adapter {name} of {path} is {_variant(variant)}, which does not change "
            "the weight by the product of its matrices; there is a penalty for LoRA "
            "and rsLoRA"
        )
    if getattr(layer.get_base_layer(), "groups", 1) > 1:
        raise CoverageError(
            f"{path} is a grouped convolution, of which no penalty of a LoRA is known; "
            "leave it out of target_modules"
        )


def _variant(variant: object) -> str:
    """``DoraLinearVariant`` as people know it."""
    name = type(variant).__name__
    return "DoRA" if "Dora" in name else f"a {name}"


def _holders(model: nn.Module) -> dict[int, set[str]]:
    """Which modules have a weight, by its identity."""
    found: dict[int, set[str]] = {}
    for path, module in model.named_modules():
        for _, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), set()).add(unwrapped(path))
    return found
