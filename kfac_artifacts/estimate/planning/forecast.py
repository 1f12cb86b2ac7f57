"""What computing a network's curvature would take, before it is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from kfac_artifacts.artifact import Block, NamedConfig
from kfac_artifacts.capture import (
    Inventory,
    KroneckerLayer,
    Layer,
    constants_of,
    require_layers,
    take_inventory,
)
from kfac_artifacts.errors import KfacError, ModelError, SettingsError, first_line
from kfac_artifacts.estimate.description import in_order
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.estimate.estimators.kfac import Kfac
from kfac_artifacts.estimate.planning.cost import (
    Flops,
    Memory,
    PlannedBlock,
    artifact_bytes,
    flops,
    memory,
)
from kfac_artifacts.estimate.planning.trace import SHAPE_ERRORS, Trace, trace
from kfac_artifacts.factors import Diagonal
from kfac_artifacts.network import Batch, Network

KFAC = Kfac()


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        examples: Number of examples.
        batch_size: Examples per pass.
        passes: Cotangents per example: the draws, or the outputs of f if exact.
        estimator: How Gramians are approximated.

    Raises:
        SettingsError: If a number is less than 1.
    """

    examples: int = 256
    batch_size: int = 32
    passes: int = 1
    estimator: Estimator = KFAC

    def __post_init__(self) -> None:
        for name in ("examples", "batch_size", "passes"):
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}, and must be at least 1"
                )


USUAL = Effort()


@dataclass(frozen=True)
class Plan:
    """What would be computed, and what it would take.

    Attributes:
        blocks: Every block of the artifact, in order.
        summed: The same blocks as sums give them, before they are refined.
        excluded: Parameters left out on request.
        uncovered: Parameters left out for a reason.
        parameters: Number of parameters of the model.
        outputs: Number of outputs of f; None if not known.
        effort: How much would be computed.
        storages: Bytes of all tensors of the artifact, under every storage.
        memory: Bytes of memory.
        flops: Operations per example; None if not known. What they do not hold
            is in the estimator's ``cost``.
        untraced: Why no pass could be made for its shapes; None if it was. Without it,
            no positions are known, every layer is taken as reached, and no two as
            sharing an input, so that sizes are at most what they would be.
    """

    blocks: tuple[PlannedBlock, ...]
    summed: tuple[PlannedBlock, ...]
    excluded: tuple[str, ...]
    uncovered: Mapping[str, str]
    parameters: int
    outputs: int | None
    effort: Effort
    storages: Mapping[str, int]
    memory: Memory
    flops: Flops | None
    untraced: str | None

    @property
    def covered(self) -> int:
        """Number of parameters that blocks cover."""
        return sum(block.size for block in self.blocks)


def plan(
    network: Network,
    batch: Batch,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tables: bool = False,
    means: bool = False,
    effort: Effort = USUAL,
) -> Plan:
    """Find what ``compute`` would make of a network, and at what cost.

    Shapes come from one forward and one backward pass. With a network and a batch on
    the meta device (``sources.load_skeleton``) they compute nothing and take no memory.

    Args:
        network: The network; left as it was found.
        batch: Two or more examples of the length or size that is to be expected.
        only: Patterns of parameter names to cover; empty means every parameter.
        exclude: Patterns of parameter names to leave out.
        tables: Whether tables of tokens and positions would be covered.
        means: Whether means of inputs would be kept where there is no bias.
        effort: How much would be computed.

    Returns:
        The plan. That the blocks are covered is proved only when they are computed.

    Raises:
        CoverageError: If a pattern matches no parameter, or none can be covered.
        SettingsError: If means are wanted of an estimator that keeps none.
    """
    inventory = effort.estimator.narrowed(
        take_inventory(
            network.module,
            only=tuple(only),
            exclude=tuple(exclude),
            tables=tables,
            forward_only=effort.estimator.cost.forward_only,
        ),
        means=means,
    )
    require_layers(inventory)
    traced, untraced = _try_trace(network, inventory, batch)
    require_layers(inventory)
    estimator, cost = effort.estimator, effort.estimator.cost
    summed = planned_blocks(
        network.module, inventory, traced, estimator, estimator.summed_blocks
    )
    passes = 0 if cost.forward_only else effort.passes
    blocks = planned_blocks(
        network.module, inventory, traced, estimator, estimator.blocks
    )
    return Plan(
        blocks=blocks,
        summed=summed,
        excluded=tuple(inventory.excluded),
        uncovered=in_order(network, inventory.uncovered | constants_of(network)),
        parameters=sum(p.numel() for p in network.parameters().values()),
        outputs=None if traced is None else traced.outputs,
        effort=effort,
        storages=artifact_bytes(blocks),
        memory=memory(
            network,
            summed,
            traced,
            batch_size=min(effort.batch_size, effort.examples),
            recorded=effort.examples if cost.recorded else 0,
            passes=passes,
        ),
        flops=None
        if traced is None
        else flops(summed, traced, passes=passes, reduced=cost.reduced),
        untraced=untraced,
    )


def planned_blocks(
    module: nn.Module,
    inventory: Inventory,
    traced: Trace | None,
    estimator: Estimator,
    blocks_for: Callable[[Layer, Layer], Mapping[str, Block]],
) -> tuple[PlannedBlock, ...]:
    """Name the blocks that the layers of an inventory become, with their factors.

    Args:
        module: The module, for the shapes of its parameters.
        inventory: Its layers.
        traced: A pass over them; None if there is none.
        estimator: How Gramians are approximated.
        blocks_for: The blocks of a layer, given the layer whose input it shares.

    Returns:
        The blocks, in the order of the layers.
    """
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    seen: set[str] = set()
    blocks = []
    for layer in inventory.layers:
        leader = layer if traced is None else traced.leaders.get(layer, layer)
        for name, block in blocks_for(layer, leader).items():
            planned = PlannedBlock(
                name=name,
                block=block,
                shapes={p: shapes[p] for p in block.parameters},
                structures=_structures(estimator, layer, block, shapes),
                shared=frozenset(block.factors) & seen,
                positions=None if traced is None else traced.positions[layer],
            )
            seen.update(block.factors)
            blocks.append(planned)
    return tuple(blocks)


def _try_trace(
    network: Network, inventory: Inventory, batch: Batch
) -> tuple[Trace | None, str | None]:
    """Trace, or say why that cannot be done."""
    try:
        return trace(network, inventory, batch), None
    except ModelError as error:
        if not isinstance(error.__cause__, RuntimeError):  # other inputs are needed
            raise
        return None, first_line(error.__cause__)
    except KfacError:
        raise
    except SHAPE_ERRORS as error:
        return None, first_line(error)


def _structures(
    estimator: Estimator,
    layer: Layer,
    block: Block,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, NamedConfig]:
    """The structure of every factor: inputs that are one-hot have a diagonal A."""
    found = estimator.structures(block, shapes)
    if isinstance(layer, KroneckerLayer) and layer.has_diagonal_inputs:
        found |= dict.fromkeys(block.inputs, NamedConfig(Diagonal.name))
    return found
