"""What may be asked of an estimation, besides which model and which data."""

from dataclasses import dataclass
from pathlib import Path


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
