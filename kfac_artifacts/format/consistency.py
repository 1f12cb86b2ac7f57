"""What must hold between the parts of a manifest, each of which is right by itself."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from kfac_artifacts.artifact import BlockInfo, KroneckerInfo, Provenance
from kfac_artifacts.format.fields import Fields

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
    message = (
        f"it must list {SINGLE}, or all of two or more numbered shards and {INDEX}"
    )
    Fields({}, "files").require(set(found) == allowed, message)


def check_provenance(provenance: Provenance, blocks: Mapping[str, BlockInfo]) -> None:
    """Check counts, and that every parameter is covered once or left out.

    Args:
        provenance: Where the artifact comes from.
        blocks: Its blocks.

    Raises:
        FormatError: If something does not fit together.
    """
    whole = Fields({}, "manifest")
    count = len(provenance.sources)
    whole.require(provenance.tasks == count, "tasks is not the number of sources")
    total = sum(source.data.size for source in provenance.sources)
    whole.require(provenance.size == total, "size is not the sum over the sources")
    whole.require(len(blocks) > 0, "there are no blocks")
    covered: dict[str, list[int | None]] = defaultdict(list)
    for block in blocks.values():
        for parameter in block.parameters:
            covered[parameter].append(_part(block))
    known = set(provenance.base.parameters)
    whole.require(
        set(covered) == known, "base_model.parameters are not those of the blocks"
    )
    for parameter, parts in covered.items():
        _check_parts(parts, provenance.base.shapes[parameter], parameter)
    left_out = {*provenance.excluded, *provenance.uncovered}
    whole.require(not left_out & known, "a parameter is both covered and left out")
    errors = set(provenance.merge_errors)
    whole.require(errors <= set(blocks), "merge_errors names no block")


def _part(block: BlockInfo) -> int | None:
    return block.part if isinstance(block, KroneckerInfo) else None


def _check_parts(
    parts: Sequence[int | None], shape: tuple[int, ...], parameter: str
) -> None:
    """Check that a parameter is in one block, or each of its parts is."""
    where = Fields({}, f"blocks of {parameter!r}")
    if parts == [None]:
        return
    where.require(None not in parts, "a parameter is in two blocks")
    where.require(len(parts) == len(set(parts)), "a part is in two blocks")
    count = shape[0] if shape else 0
    within = all(part is not None and part < count for part in parts)
    where.require(within, f"a part is not one of the {count} that there are")
    where.require(len(parts) == count, f"{count - len(parts)} parts are in no block")


def check_factors(
    provenance: Provenance, blocks: Mapping[str, BlockInfo], dims: Mapping[str, int]
) -> None:
    """Check that every factor is there, has the size its blocks need, and is used.

    Args:
        provenance: Where the artifact comes from; checked already.
        blocks: The blocks.
        dims: Size of every factor.

    Raises:
        FormatError: If a factor does not fit.
    """
    shapes = provenance.base.shapes
    used: set[str] = set()
    for name, block in blocks.items():
        where = Fields({}, f"blocks[{name!r}]")
        if isinstance(block, KroneckerInfo):
            _check_shapes(block, shapes, where)
        for factor, dim in block.sizes(shapes):
            where.require(factor in dims, f"no factor {factor!r}")
            message = f"factor {factor!r} has size {dims[factor]}, not {dim}"
            where.require(dims[factor] == dim, message)
            used.add(factor)
    unused = sorted(set(dims) - used)
    Fields({}, "factors").require(not unused, f"used by no block: {unused[:3]}")


def _check_shapes(
    block: KroneckerInfo, shapes: Mapping[str, tuple[int, ...]], where: Fields
) -> None:
    stacked = block.part is not None
    weight = shapes[block.weight][stacked:]
    where.require(len(weight) >= 2, "the weight, or its part, must have two axes")
    d_out, _ = block.layout.dims(weight)
    fits = block.bias is None or shapes[block.bias][stacked:] == (d_out,)
    where.require(fits, f"the bias, or its part, must have shape [{d_out}]")
