"""The inputs of linear maps, as an artifact holds them, for formats that take these."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from jaxtyping import Float
from torch import Tensor

from kfac_artifacts.artifact import Artifact, LinearBlock
from kfac_artifacts.errors import MismatchError, SettingsError, listed

A_TABLE = "a table that is looked up by number, whose inputs are no vectors"
NO_A = "it has no A"


@dataclass(frozen=True)
class OwnInputs:
    """What is known of the inputs of one linear map.

    Attributes:
        name: The block.
        factor: The factor A, which maps with the same inputs share.
        block: The block.
        artifact: What it is of.
    """

    name: str
    factor: str
    block: LinearBlock
    artifact: Artifact

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """``E[a aᵀ]`` without the row of a bias, in float64."""
        A = self.artifact.factors[self.factor].to_dense().double()
        return A[:-1, :-1] if self.block.biased else A

    @property
    def squares(self) -> Float[Tensor, " d"]:
        """The diagonal of it, without forming the matrix."""
        diagonal = self.artifact.factors[self.factor].diagonal().double()
        return diagonal[:-1] if self.block.biased else diagonal

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """``E[a]``, in float64.

        Raises:
            MismatchError: If there is neither a bias nor a constant beside the inputs.
        """
        if not self.block.biased:
            raise MismatchError(
                f"{self.name} has no mean of its inputs; compute it with --means"
            )
        return self.artifact.factors[self.factor].to_dense()[:-1, -1].double()

    @property
    def positions(self) -> int:
        """Of how many positions it is the mean.

        Raises:
            MismatchError: If nobody knows.
        """
        if self.block.positions is None:
            raise MismatchError(
                f"{self.name} does not say of how many positions its A is the mean, "
                "which the format has to tell; compute it again"
            )
        return self.block.positions


def inputs_of(
    artifact: Artifact, modules: tuple[str, ...]
) -> tuple[list[OwnInputs], dict[str, str]]:
    """Find the inputs of linear maps.

    Args:
        artifact: The artifact.
        modules: Patterns (``*`` and ``?``) of names of blocks; empty means all.

    Returns:
        What there is, and blocks that were wanted and have none, with the reason.

    Raises:
        SettingsError: If a pattern is of no block, or nothing is found.
    """
    for pattern in modules:
        if not any(fnmatchcase(name, pattern) for name in artifact.blocks):
            raise SettingsError(
                f"no module is called {pattern!r}; there are, for example, "
                f"{listed(list(artifact.blocks), most=3)}"
            )
    found, left = [], dict[str, str]()
    for name in _wanted(artifact, modules):
        block = artifact.blocks[name]
        if not isinstance(block, LinearBlock) or not block.inputs:
            left[name] = NO_A
        elif artifact.factors.structure(block.inputs[0]).name == "diagonal":
            left[name] = A_TABLE
        else:
            found.append(OwnInputs(name, block.inputs[0], block, artifact))
    if not found:
        raise SettingsError(f"none of {listed(list(left), most=3)} has an A")
    return found, left


def _wanted(artifact: Artifact, modules: tuple[str, ...]) -> Iterator[str]:
    for name in artifact.blocks:
        if not modules or any(fnmatchcase(name, pattern) for pattern in modules):
            yield name
