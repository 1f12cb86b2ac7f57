"""How many tokens a text model can take."""

from typing import Any

from torch import nn

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network

NO_LIMIT = 10**9
LIMITS = ("max_position_embeddings", "max_seq_len")


def positions_of(module: nn.Module) -> int:
    """How many tokens a text model can take; a huge number if there is no limit.

    RoBERTa and its kin number positions from behind the padding token, so that the
    first rows of their table belong to no token of a text.

    Args:
        module: A ``transformers`` model.

    Returns:
        The number of tokens, those that frame a text included.
    """
    config: Any = module.config
    config = config.get_text_config()
    limits = (getattr(config, name, None) for name in LIMITS)
    most = next((int(limit) for limit in limits if limit is not None), NO_LIMIT)
    if most < 1:  # XLNet says -1
        return NO_LIMIT
    tables = (
        part
        for name, part in module.named_modules()
        if "position" in name.rpartition(".")[2] and hasattr(part, "weight")
    )
    behind = [
        int(table.padding_idx) + 1
        for table in tables
        if len(table.weight) == most and getattr(table, "padding_idx", None) is not None
    ]
    return most - max(behind, default=0)


def check_length(network: Network, length: int, what: str) -> None:
    """Check that a model can take texts of a length.

    Args:
        network: The network.
        length: The length in tokens.
        what: The number's name in the error.

    Raises:
        SourceError: If it cannot.
    """
    positions = positions_of(network.module)
    if not 1 <= length <= positions:
        raise SourceError(
            f"{what} {length} is not within 1 and the {positions} tokens that "
            f"{network.id} has positions for"
        )
