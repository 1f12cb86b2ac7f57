"""Models of which a process holds a part alone."""

from torch import nn
from torch.distributed.tensor import DTensor

from kfac_artifacts.errors import MismatchError


def require_whole(model: nn.Module) -> None:
    """Refuse a model whose parameters are split among processes.

    Args:
        model: A model.

    Raises:
        MismatchError: If a part of it is elsewhere.
    """
    for name, parameter in model.named_parameters():
        split = isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")
        if split or "_fsdp_wrapped_module" in name or "_flat_param" in name:
            raise MismatchError(
                f"{name} is split among processes (FSDP, DeepSpeed ZeRO or tensor "
                "parallelism), and the penalty needs whole matrices; train on one "
                "process, or on several with a copy each (DDP)"
            )
