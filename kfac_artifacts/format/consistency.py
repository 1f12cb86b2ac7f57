"""What must hold between the parts of a manifest, each of which is right by itself."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from kfac_artifacts.artifact import Block, NamedConfig, Provenance
from kfac_artifacts.choices import NO_COTANGENTS, WEIGHTINGS
from kfac_artifacts.json_object import require

SINGLE = "factors.safetensors"
INDEX = "factors.safetensors.index.json"


def shard_names(count: int) -> list[str]:
    """Name the tensor files of an artifact that has ``count`` of them."""
    if count == 1:
        return [SINGLE]
    numbers = range(1, count + 1)
    return [f"factors-{i:05d}-of-{count:05d}.safetensors" for i in numbers]


def check_file_names(found: Collection[str]) -> None:
    """Check that the files have the only names allowed: none leaves the directory.

    Args:
        found: Names of the files, without the manifest.

    Raises:
        FormatError: If they have others.
    """
    allowed = {SINGLE}
    if len(found) != 1:
        allowed = {INDEX, *shard_names(max(len(found) - 1, 2))}
    require(
        set(found) == allowed,
        f"files: it must list {SINGLE}, or all of two or more numbered shards and "
        f"{INDEX}",
    )


def check_provenance(provenance: Provenance, blocks: Mapping[str, Block]) -> None:
    """Check counts, and that every parameter is covered once or left out.

    Args:
        provenance: Where the artifact comes from.
        blocks: Its blocks.

    Raises:
        FormatError: If something does not fit together.
    """
    check_sources(provenance)
    require(len(blocks) > 0, "manifest: there are no blocks")
    covered: dict[str, list[int | None]] = defaultdict(list)
    for block in blocks.values():
        for parameter in block.parameters:
            covered[parameter].append(block.part)
    known = set(provenance.base.parameters)
    require(
        set(covered) == known,
        "manifest: base_model.parameters are not those of the blocks",
    )
    for parameter, parts in covered.items():
        _check_parts(parts, provenance.base.shapes[parameter], parameter)
    excluded = provenance.excluded
    require(len(excluded) == len(set(excluded)), "manifest: excluded has a name twice")
    left_out = {*excluded, *provenance.uncovered}
    require(not left_out & known, "manifest: a parameter is both covered and left out")
    errors = set(provenance.merge_errors)
    require(errors <= set(blocks), "manifest: merge_errors names no block")
    _check_positions(provenance, blocks)
    pulled = {source.cotangents.name for source in provenance.sources}
    forward_only = provenance.estimator.name == "inputs"
    require(
        pulled == {NO_COTANGENTS} if forward_only else NO_COTANGENTS not in pulled,
        "manifest: cotangents none go with the estimator inputs, and no others do",
    )


def check_sources(provenance: Provenance) -> None:
    """Check that counts are those of the tasks, and that no task is there twice.

    Args:
        provenance: Where the artifact comes from.

    Raises:
        FormatError: If a number is wrong, or two sources have one digest.
    """
    count = len(provenance.sources)
    require(provenance.tasks == count, "manifest: tasks is not the number of sources")
    total = sum(source.data.size for source in provenance.sources)
    require(provenance.size == total, "manifest: size is not the sum over the sources")
    digests = [source.digest for source in provenance.sources if source.digest]
    once = len(digests) == len(set(digests))
    require(once, "manifest: sources: one digest twice, so one task twice")


def _check_positions(provenance: Provenance, blocks: Mapping[str, Block]) -> None:
    """Check that an A has one number of positions, and one where it is needed."""
    counts: dict[str, set[int | None]] = defaultdict(set)
    for block in blocks.values():
        for name in block.inputs:
            counts[name].add(block.positions)
    one = all(len(found) == 1 for found in counts.values())
    require(one, "manifest: blocks with one A have different positions")
    known = all(None not in found for found in counts.values())
    by_size = provenance.weighting == WEIGHTINGS[0]
    require(by_size or known, "manifest: weighting by positions, which a block lacks")


def _check_parts(
    parts: Sequence[int | None], shape: tuple[int, ...], parameter: str
) -> None:
    """Check that a parameter is in one block, or each of its parts is."""
    where = f"blocks of {parameter!r}"
    if parts == [None]:
        return
    require(None not in parts, f"{where}: a parameter is in two blocks")
    require(len(parts) == len(set(parts)), f"{where}: a part is in two blocks")
    count = shape[0] if shape else 0
    within = all(part is not None and part < count for part in parts)
    require(within, f"{where}: a part is not one of the {count} that there are")
    require(len(parts) == count, f"{where}: {count - len(parts)} parts are in no block")


def check_factors(
    provenance: Provenance,
    blocks: Mapping[str, Block],
    dims: Mapping[str, int],
    structures: Mapping[str, NamedConfig],
) -> None:
    """Check that every factor is there, has the size its blocks need, and is used.

    Args:
        provenance: Where the artifact comes from; checked already.
        blocks: The blocks.
        dims: Size of every factor.
        structures: Structure of every factor.

    Raises:
        FormatError: If a factor does not fit.
    """
    check_fit(provenance, blocks, dims, structures)
    used = {factor for block in blocks.values() for factor in block.factors}
    unused = sorted(set(dims) - used)
    require(not unused, f"factors: used by no block: {unused[:3]}")


def check_fit(
    provenance: Provenance,
    blocks: Mapping[str, Block],
    dims: Mapping[str, int],
    structures: Mapping[str, NamedConfig],
) -> None:
    """Check that what blocks refer to is there, and of the size that they need.

    Args:
        provenance: Where the artifact comes from.
        blocks: The blocks, or some of them.
        dims: Size of every factor.
        structures: Structure of every factor.

    Raises:
        FormatError: If a parameter or a factor is missing, or does not fit.
    """
    shapes = provenance.base.shapes
    for name, block in blocks.items():
        where = f"blocks[{name!r}]"
        missing = sorted(set(block.parameters) - set(shapes))
        require(not missing, f"{where}: no parameters {missing}")
        misfit = block.misfit(shapes)
        require(misfit is None, f"{where}: {misfit}")
        for factor in block.factors:
            require(factor in dims, f"{where}: no factor {factor!r}")
        misfit = block.misfit_of_factors(structures.__getitem__)
        require(misfit is None, f"{where}: {misfit}")
        for factor, dim in block.all_sizes(shapes, structures.__getitem__):
            message = f"{where}: factor {factor!r} has size {dims[factor]}, not {dim}"
            require(dims[factor] == dim, message)
