"""Which blocks a site becomes, and what they and their factors are called."""

from kfac_artifacts.artifact import Block, GramianBlock, KroneckerBlock
from kfac_artifacts.estimate.sites.base import Site


def input_name(site: Site) -> str:
    """What the factor A of a site is called."""
    return f"{site.name}.A"


def output_name(site: Site) -> str:
    """What the factor B of a site is called."""
    return f"{site.name}.B"


def gramian_name(parameter: str) -> str:
    """What the Gramian of a parameter is called."""
    return f"{parameter}.G"


def blocks_of(site: Site, leader: Site) -> dict[str, Block]:
    """Describe the blocks of a site by name.

    Args:
        site: The site.
        leader: The site whose factor A it shares, or itself.

    Returns:
        One Kronecker block, or a Gramian for every parameter.
    """
    if site.whole:
        return {
            name: GramianBlock(name, (gramian_name(name),))
            for name in site.parameters.values()
        }
    terms = ((input_name(leader), output_name(site)),)
    weight, bias = site.parameters["weight"], site.parameters.get("bias")
    return {site.name: KroneckerBlock(weight, bias, site.layout, terms, site.part)}
