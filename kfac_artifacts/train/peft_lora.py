"""Low-rank adapters of ``peft`` for language models: what is adapted, and how."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR, getLogger
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import CoverageError, SettingsError, listed
from kfac_artifacts.network import Network
from kfac_artifacts.tuning import find_naming

ALL = "all-linear"
OF_EXPERTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that ``peft`` takes for those of experts in a mixture that has them in a stack,
which it adapts in a way that no penalty is known of."""


@dataclass(frozen=True)
class LoraSettings:
    """What is adapted, and how (Hu et al. 2022).

    Attributes:
        r: Rank of every change.
        alpha: Products are multiplied by this and divided by r.
        dropout: Share of the inputs of adapters that is dropped while training.
        targets: Names of layers, as ``target_modules`` of ``peft``; ``all-linear`` for
            all linear maps but the output and experts. None for those of them that the
            curvature covers, or for all if there is none.
        rslora: Whether to divide by the root of r (Kalajdzievski 2023).
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise SettingsError(
                f"r and alpha of LoRA must be positive, and dropout a share below 1, "
                f"found {self.r}, {self.alpha} and {self.dropout}"
            )


def linear_maps(module: Any) -> dict[str, nn.Module]:
    """Find all linear maps of a language model but that of its output, by path."""
    output = module.get_output_embeddings()
    return {
        path: each
        for path, each in module.named_modules()
        if isinstance(each, nn.Linear | Conv1D) and each is not output
    }


def _targets(module: Any, lora: LoraSettings, curvature: Artifact | None) -> Any:
    """What is adapted, as ``peft`` takes it."""
    if lora.targets not in (None, (ALL,)):
        return [*lora.targets]
    maps = [*linear_maps(module)]
    every: Any = ALL
    if any(p.dim() == 3 for p in module.parameters()):
        every = maps = [n for n in maps if n.rpartition(".")[2] not in OF_EXPERTS]
    if curvature is None or lora.targets is not None:
        return every
    covered = curvature.parameters
    naming = find_naming([name for name, _ in module.named_parameters()], covered)
    found = [path for path in maps if naming(f"{path}.weight") in covered]
    if not found:
        raise CoverageError(
            "the curvature covers no linear map of the model but perhaps its output, "
            f"and no adapter could be held back; it covers {listed([*covered], 3)}"
        )
    return every if len(found) == len(maps) else found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ``peft`` and what it imports say of each other from the user."""
    logger = getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)


def with_adapter(
    network: Network, lora: LoraSettings, curvature: Artifact | None
) -> Any:
    """Put an adapter into a language model.

    Args:
        network: The model; it has the adapter afterwards.
        lora: What is adapted.
        curvature: What is to be preserved, which decides that if nothing else does.

    Returns:
        The model of ``peft``.

    Raises:
        SettingsError: If ``peft`` is missing, or finds no such layers.
        CoverageError: If the curvature covers no linear map.
        MismatchError: If it is of another model.
    """
    module: Any = network.module
    targets = _targets(module, lora, curvature)
    with _quiet():
        return _made(network, lora, targets)


def _made(network: Network, lora: LoraSettings, targets: Any) -> Any:
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            "adapters need peft: pip install 'kfac-artifacts[lora]'"
        ) from error
    module: Any = network.module
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in module.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        model: Any = get_peft_model(module, config)
    except ValueError as error:
        raise SettingsError(f"targets of the adapter: {error}") from error
    model.peft_config["default"].base_model_name_or_path = network.id
    return model
