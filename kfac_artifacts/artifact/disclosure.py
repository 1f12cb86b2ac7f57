"""What an artifact gives away of the data that it was computed from.

``spec/privacy.md`` says what was measured. Nothing here is a guarantee.
"""

from dataclasses import dataclass

from kfac_artifacts.artifact.artifact import Artifact
from kfac_artifacts.artifact.blocks.base import Block
from kfac_artifacts.factors import Diagonal

ENOUGH_EXAMPLES = 64
"""Different examples that a task is computed from, unless its owner allows fewer."""

ALIKE = 1e-2
"""Share by which equal counts may differ once they were stored in few bits."""


@dataclass(frozen=True)
class Disclosure:
    """What an artifact gives away.

    Attributes:
        examples: How many examples it was computed from.
        fewest: How many of the task that has the fewest, of those without noise; with
            what others know of their own tasks, the rest of a merged artifact can be
            told apart. None if noise hides all.
        tables: Parameters whose A counts, exactly, how often the data use each row.
        first: The first modules with an A of their input; the nearer they are to the
            embeddings, the more of the input it shows.
        guarantees: (ε, δ) of each task whose examples noise hides.
    """

    examples: int
    fewest: int | None
    tables: tuple[str, ...]
    first: tuple[str, ...]
    guarantees: tuple[tuple[float, float], ...] = ()

    @property
    def few(self) -> bool:
        """Whether a task has so few examples that each of them can be read."""
        return self.fewest is not None and self.fewest < ENOUGH_EXAMPLES

    @property
    def warnings(self) -> list[str]:
        """What should be known before it is published, a sentence each."""
        found = []
        if self.tables:
            found.append(
                f"it gives away exactly how often each row of {', '.join(self.tables)} "
                "is used: which tokens, or places, the data have, and how many of each"
            )
        if self.few:
            found.append(
                f"it was computed from {self.fewest} examples of a task, fewer than "
                f"{ENOUGH_EXAMPLES}: each can be read from it, word for word"
            )
        return found

    @property
    def guarantee(self) -> str:
        """What noise hides, in words; empty if it hides nothing."""
        if not self.guarantees:
            return ""
        epsilon, delta = (
            max(numbers) for numbers in zip(*self.guarantees, strict=True)
        )
        tasks = f" in {len(self.guarantees)} of its tasks" if self.fewest else ""
        return (
            f"noise hides each example{tasks}: ({epsilon:g}, {delta:g})-differential "
            "privacy towards replacing one"
        )

    def __str__(self) -> str:
        if self.fewest is None:
            return f"what it gives away: {self.guarantee} (spec/privacy.md)"
        tables = ", ".join(self.tables) if self.tables else "none"
        hidden = f"; {self.guarantee}" if self.guarantees else ""
        return (
            f"what it gives away: second moments of {self.examples} examples; tables "
            f"that count tokens or places: {tables}; nearest to the input: "
            f"{', '.join(self.first) or 'none'}; tokens and places can be read from "
            "what lies right behind the embeddings, unless it is left out with "
            f"--modules or --exclude{hidden} (spec/privacy.md)"
        )


def disclosure(artifact: Artifact) -> Disclosure:
    """Find what an artifact gives away.

    Args:
        artifact: The artifact; of its factors only those of tables are read.

    Returns:
        What it gives away.
    """
    sources = artifact.provenance.sources
    plain = [s.data.examples for s in sources if s.privacy is None]
    linear = {
        name: block
        for name, block in artifact.blocks.items()
        if block.is_product and not _looks_up(artifact, block)
    }
    first = next((block.inputs[0] for block in linear.values()), None)
    return Disclosure(
        examples=sum(source.data.examples for source in sources),
        fewest=min(plain, default=None),
        tables=tuple(
            block.parameters[0]
            for block in artifact.blocks.values()
            if _looks_up(artifact, block) and _counts(artifact, block)
        ),
        first=tuple(n for n, block in linear.items() if block.inputs[0] == first),
        guarantees=tuple(
            (s.privacy.epsilon, s.privacy.delta) for s in sources if s.privacy
        ),
    )


def _looks_up(artifact: Artifact, block: Block) -> bool:
    """Whether a block is of rows that are looked up by number: A is diagonal."""
    if not block.is_table:  # a recipe may make any A diagonal
        return False
    return artifact.factors.structure(block.inputs[0]).name == Diagonal.name


def _counts(artifact: Artifact, block: Block) -> bool:
    """Whether the rows are used differently; else each example uses each of them."""
    diagonals = (artifact.factors[name].diagonal() for name in block.inputs)
    return any(not bool((d - d[0]).abs().max() <= ALIKE * d[0]) for d in diagonals)
