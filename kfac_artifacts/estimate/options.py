"""What may be asked of an estimation, besides which model and which data."""

from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format.manifest import ESTIMATORS

ORTHOGONAL = Cotangents("orthogonal", 1, 0)
FEWEST_TO_SPREAD = 4


@dataclass(frozen=True)
class Estimator:
    """How a Gramian is approximated.

    Attributes:
        name: ``kfac`` (KFAC-expand, as in TAK), ``kfac-reduce``, or ``nearest``, the
            nearest Kronecker products in the Frobenius norm.
        terms: Products per block, for ``nearest``.
        shrinkage: Whether ``nearest`` guards against learning the noise of examples.
        max_sweeps: Sweeps over the data after which ``nearest`` stops in any case.
        memory: Bytes of activations that ``nearest`` may keep at once; what does not
            fit is computed again.
    """

    name: str = "kfac"
    terms: int = 1
    shrinkage: bool = True
    max_sweeps: int = 6
    memory: int = 4 * 2**30

    def check(self, examples: int) -> None:
        """Refuse what cannot be done.

        Args:
            examples: Number of examples in use.

        Raises:
            SettingsError: If the name is unknown, or the numbers do not fit.
        """
        if self.name not in ESTIMATORS:
            raise SettingsError(
                f"there is no estimator {self.name!r}; choose from {ESTIMATORS}"
            )
        if self.terms < 1 or self.max_sweeps < 1 or self.memory < 1:
            raise SettingsError("terms, sweeps and memory must be at least 1")
        if self.name != "nearest" and self.terms != 1:
            raise SettingsError(
                f"{self.name} has one term per block; {self.terms} go with nearest"
            )
        guarded = self.name == "nearest" and self.shrinkage
        if guarded and examples < FEWEST_TO_SPREAD:
            raise SettingsError(
                f"{examples} examples do not show how far examples differ; give at "
                f"least {FEWEST_TO_SPREAD}, or switch the shrinkage of nearest off"
            )


KFAC = Estimator()


@dataclass(frozen=True)
class ComputeOptions:
    """How the work is done; nothing of it changes the result.

    Attributes:
        checkpoint: Directory for what is done so far, or None.
        resume: Whether to go on from there.
        every: Batches between checkpoints, at least.
        shard: Whether, with several processes, each factor lives on one of them alone.
    """

    checkpoint: str | Path | None = None
    resume: bool = False
    every: int = 4
    shard: bool = False

    @property
    def directory(self) -> Path | None:
        """The directory of the checkpoint, or None."""
        return None if self.checkpoint is None else Path(self.checkpoint)


ALONE = ComputeOptions()
