"""Which parameters are matrices that multiply activations, and which are tables."""

from collections.abc import Sequence

from torch import nn

from kfac_artifacts.network import Network


def matrices_of(network: Network, names: Sequence[str]) -> list[str]:
    """Find the weights of linear maps: matrices that are no tables of vectors.

    Args:
        network: The network.
        names: Names of some of its parameters.

    Returns:
        Those of them, in that order.
    """
    tables, shapes = tables_of(network), network.shapes
    return [n for n in names if len(shapes[n]) == 2 and n not in tables]


def tables_of(network: Network) -> set[str]:
    """Find the parameters that are tables of vectors, such as those of tokens.

    Args:
        network: The network.

    Returns:
        Their names, by every path that leads to them.
    """
    return {
        f"{path}.{own}" if path else own
        for path, module in network.module.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for own, _ in module.named_parameters(recurse=False)
    }
