"""Which blocks a layer becomes, and what they and their factors are called."""

from kfac_artifacts.artifact import Block, GramianBlock, KroneckerBlock
from kfac_artifacts.capture.layers.base import Layer


def input_name(layer: Layer) -> str:
    """What the factor A of a layer is called."""
    return f"{layer.name}.A"


def output_name(layer: Layer) -> str:
    """What the factor B of a layer is called."""
    return f"{layer.name}.B"


def gramian_name(parameter: str) -> str:
    """What the Gramian of a parameter is called."""
    return f"{parameter}.G"


def blocks_of(layer: Layer, leader: Layer) -> dict[str, Block]:
    """Describe the blocks of a layer by name.

    Args:
        layer: The layer.
        leader: The layer whose factor A it shares, or itself.

    Returns:
        One Kronecker block, or a Gramian for every parameter.
    """
    if layer.whole:
        return {
            name: GramianBlock(name, (gramian_name(name),))
            for name in layer.parameters.values()
        }
    terms = ((input_name(leader), output_name(layer)),)
    weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
    return {layer.name: KroneckerBlock(weight, bias, layer.layout, terms, layer.part)}
