"""Statistics of somebody else and a model that the user names: an artifact.

What files cannot say comes from the model (shapes and hashes of its weights, how a
weight becomes W) or from the user. The configuration of the estimator tells what was
converted, and what the user said.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    DataInfo,
    DiagonalBlock,
    EigenBlock,
    Json,
    KroneckerBlock,
    NamedConfig,
    Provenance,
    Source,
)
from kfac_artifacts.bridges.building import Built, build, build_diagonals
from kfac_artifacts.bridges.files import sha256_of
from kfac_artifacts.bridges.matching import Naming, Target, match
from kfac_artifacts.bridges.reading import Origin, ReadFactors
from kfac_artifacts.bridges.statistics import (
    FORWARD,
    Numbers,
    Statistics,
    require_examples,
)
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import Network

AS_THEY_WERE = NamedConfig("tensors")
"""The preprocessing of which nothing is known."""


AS_CALLED = Naming()
"""Modules are called as in the files, but for a prefix."""


@dataclass(frozen=True)
class About:
    """What the user says of numbers that do not say it themselves.

    Attributes:
        data: What to call the data; None for what the files say.
        examples: How many examples were used; None if the files tell.
        size: How many examples the data have: their weight in merging; None for as many
            as were used.
        output_map: The function whose curvature it is; None for that of the network.
        naming: What modules are called in the model.
    """

    data: str | None = None
    examples: int | None = None
    size: int | None = None
    output_map: NamedConfig | None = None
    naming: Naming = AS_CALLED


def assemble(
    statistics: Statistics,
    network: Network,
    about: About,
    source: str,
    settings: Mapping[str, Json],
) -> Artifact:
    """Make an artifact of statistics.

    Args:
        statistics: What was read.
        network: The model that they are of; the weights that are covered are hashed.
        about: What the user says of them.
        source: The format that they were in.
        settings: What the user said of its conventions.

    Returns:
        The artifact, whose factors are read when they are asked for.

    Raises:
        MismatchError: If something goes with no module, or not with its shape.
        SettingsError: If something is neither known nor said.
    """
    shapes, entries = network.shapes, statistics.entries
    built: dict[str, Built] = {}
    diagonals: dict[str, tuple[Numbers, Target]] = {}
    for entry, targets in list(match(entries, network, about.naming, source)):
        if entry.S is not None and entry.A is None:
            diagonals |= {each.parameter: (entry.S, each) for each in targets}
        else:
            built |= build(entry, targets, shapes, source)
    built |= build_diagonals(diagonals, shapes, source)
    blocks: dict[str, Block] = {name: block for name, (block, _) in built.items()}
    origins: dict[str, Origin] = {}
    for _, own in built.values():
        origins |= own
    provenance = _provenance(statistics, network, about, source, settings, blocks)
    return Artifact(provenance, blocks, ReadFactors(origins))


def _provenance(
    statistics: Statistics,
    network: Network,
    about: About,
    source: str,
    settings: Mapping[str, Json],
    blocks: Mapping[str, Block],
) -> Provenance:
    examples = require_examples(source, about.examples or statistics.examples)
    size = about.size or examples
    if size < examples:
        raise SettingsError(f"{examples} examples cannot be of data that have {size}")
    kinds = {type(block) for block in blocks.values()}
    converted: dict[str, Json] = {"converted_from": source, **settings}
    covered = {name for block in blocks.values() for name in block.parameters}
    nothing = f"there was nothing of it in what was converted from {source}"
    data = DataInfo(
        id=about.data or statistics.data or statistics.files[0].name,
        config=None,
        split=None,
        fingerprint=statistics.fingerprint or sha256_of(statistics.files),
        examples=examples,
        size=size,
        preprocessing=AS_THEY_WERE,
    )
    return Provenance(
        base=network.base_of(covered),
        output_map=about.output_map or network.output_map.info,
        estimator=NamedConfig(
            statistics.estimator or _estimator(kinds, statistics), converted
        ),
        tasks=1,
        size=size,
        sources=(Source(data, statistics.cotangents),),
        uncovered={n: nothing for n in network.shapes if n not in covered},
    )


def _estimator(kinds: set[type[Block]], statistics: Statistics) -> str:
    """What the estimator is called that gives such blocks."""
    if statistics.cotangents == FORWARD:
        return "inputs"
    if EigenBlock in kinds:
        return "ekfac"
    both = DiagonalBlock in kinds and KroneckerBlock not in kinds
    return "diagonal" if both else "kfac"
