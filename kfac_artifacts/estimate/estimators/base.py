"""What an estimator is: how the Gramian of every block is approximated.

Another one is a class in a file of its own, and a line in ``choices.ESTIMATORS``.
"""

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from kfac_artifacts.artifact import Block, Cotangents, Json, NamedConfig, Privacy
from kfac_artifacts.capture import (
    Coverage,
    FactorSum,
    Inventory,
    KroneckerLayer,
    Layer,
    RecordBatch,
    Run,
)
from kfac_artifacts.choices import ESTIMATORS
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate.accumulator import Accumulator, factor_sums
from kfac_artifacts.factors import Factor

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(eq=False)
class Estimate:
    """Blocks and factors as far as they are estimated: more and more of them refined.

    Attributes:
        blocks: All blocks by name.
        start: The factors that sums give, of those that live on this process, by name.
        factors: The refined ones that live here.
        finished: Names of the blocks that are refined.
        records: At most one list of records that were kept while sums were made; taken
            out by who uses them.
        sweeps: The most sweeps over the examples that the refinement of a block took.
        privacy: What noise guarantees for the examples; None without noise.
    """

    blocks: dict[str, Block]
    start: dict[str, Factor]
    factors: dict[str, Factor] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    records: list[list[RecordBatch]] = field(default_factory=list)
    sweeps: int = 0
    privacy: Privacy | None = None

    def finish(self, name: str, block: Block) -> None:
        """Put a refined block in the place of the one that sums have given.

        What sums have given for finished blocks alone is forgotten.
        """
        self.blocks[name] = block.with_positions(self.blocks[name].positions)
        self.finished.append(name)
        self.start = self._unfinished_start()

    def all_factors(self) -> dict[str, Factor]:
        """The factors that the blocks refer to, of those that live here."""
        # a refined factor and one of the sums may have the same name, on two processes
        return self._unfinished_start() | self.factors

    def _unfinished_start(self) -> dict[str, Factor]:
        rest = self.blocks.keys() - set(self.finished)
        used = {name for key in rest for name in self.blocks[key].factors}
        return {n: f for n, f in self.start.items() if n in used}


@dataclass(frozen=True)
class Cost:
    """What an estimator takes beside the passes themselves: what ``plan`` asks.

    Attributes:
        reduced: Whether positions are summed up before a factor is updated.
        recorded: Whether inputs and cotangents of all examples are kept.
        forward_only: Whether nothing is pulled back.
        uncounted: What no count of operations holds, for people; empty if nothing.
    """

    reduced: bool = False
    recorded: bool = False
    forward_only: bool = False
    uncounted: str = ""


@dataclass(frozen=True)
class Estimator(ABC):
    """How Gramians are approximated; its fields are what may be chosen about it.

    Without more than a name it is KFAC-expand: every method may be overridden.

    Attributes:
        name: What it is called in artifacts and by the command.
        cost: What it takes.
        curvlinops: What curvlinops calls the approximation; None if it has none.
        takes_means: Whether means of inputs can be kept in A.
    """

    name: ClassVar[str]
    cost: ClassVar[Cost] = Cost()
    curvlinops: ClassVar[str | None] = None
    takes_means: ClassVar[bool] = False

    def check(self, examples: int) -> None:  # noqa: B027 - most can do anything
        """Refuse what cannot be done.

        Args:
            examples: Number of examples in use.

        Raises:
            SettingsError: If a field is impossible, or does not fit that number.
        """

    @property
    def hides(self) -> bool:
        """Whether noise hides each example in what is published."""
        return False

    def reason_against(self, layer: Layer) -> str | None:
        """Say why it makes nothing of a layer, or None if it does."""
        return None

    def narrowed(self, inventory: Inventory, *, means: bool = False) -> Inventory:
        """Take the layers out of which it makes nothing, and report them.

        Args:
            inventory: The layers; changed in place.
            means: Whether linear maps without a bias keep the mean of their inputs.

        Returns:
            The same inventory.

        Raises:
            SettingsError: If means are wanted, and it cannot keep them.
        """
        if means and not self.takes_means:
            raise SettingsError(
                f"{self.name} keeps no means of inputs; take the estimator kfac or "
                "inputs for them"
            )
        for layer in inventory.layers if means else ():
            if isinstance(layer, KroneckerLayer):
                layer.keeps_mean = not layer.has_diagonal_inputs
        for layer in list(inventory.layers):
            reason = self.reason_against(layer)
            if reason is not None:
                inventory.drop(layer, reason)
        return inventory

    def cotangents(self, wanted: Cotangents) -> Cotangents:
        """Say what is pulled back, if others are wanted."""
        return wanted

    def planned_sums(self, coverage: Coverage, shapes: Shapes) -> dict[str, FactorSum]:
        """Plan the sum of every factor, by the shapes of the parameters."""
        return factor_sums(coverage, shapes)

    def accumulator(self, run: Run) -> Accumulator:
        """Make what listens to the passes, and sums up."""
        return Accumulator(run)

    def refine(self, run: Run, found: Estimate) -> Iterator[None]:
        """Improve on the factors that sums give; by default nothing is to improve.

        Args:
            run: The passes, for more looks at the examples.
            found: Blocks and factors; changed in place. Some may be refined already,
                before an interruption.

        Returns:
            Steps: after each of them it can be interrupted, and gone on from there.
        """
        return iter(())

    def summed_blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        """Describe the blocks that a layer becomes by what is summed up.

        Args:
            layer: The layer.
            leader: The layer whose input it shares, or itself.

        Returns:
            Blocks by name.
        """
        return layer.blocks(leader)

    def blocks(self, layer: Layer, leader: Layer) -> Mapping[str, Block]:
        """Describe the blocks, once they are refined, that a layer becomes.

        Args:
            layer: The layer.
            leader: The layer whose input it shares, or itself.

        Returns:
            Blocks by name.
        """
        return self.summed_blocks(layer, leader)

    def structures(self, block: Block, shapes: Shapes) -> dict[str, NamedConfig]:
        """The structures of the factors of a block as it is estimated, by name."""
        return block.usual_structures(shapes)

    def described(self, found: Estimate) -> NamedConfig:
        """Say in an artifact how its factors were made."""
        return NamedConfig(self.name)

    def settings(self) -> dict[str, Json]:
        """What of it changes factors: must be the same to go on from a checkpoint."""
        return {"name": self.name, **asdict(self)}


def choose_estimator(name: str, **options: Any) -> Estimator:
    """Make the estimator of a name.

    Args:
        name: One of ``choices.ESTIMATORS``.
        options: Its fields; those not given are as usual.

    Returns:
        The estimator.

    Raises:
        SettingsError: If there is none of that name, or it has no such option.
    """
    kind = ESTIMATORS[name]
    for option in sorted(options.keys() - _options_of(kind)):
        having = [n for n, other in ESTIMATORS.items() if option in _options_of(other)]
        raise SettingsError(
            f"{option} does not go with {name}, but with {', '.join(having) or 'none'}"
        )
    chosen: Estimator = kind(**options)
    return chosen


def _options_of(kind: type[Estimator]) -> set[str]:
    return {each.name for each in fields(kind)}
