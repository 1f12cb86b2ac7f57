"""What the tasks of an artifact are called."""

from collections import Counter
from collections.abc import Sequence

from kfac_artifacts.artifact.provenance import Source
from kfac_artifacts.canonical import short


def task_names(sources: Sequence[Source]) -> list[str]:
    """Name tasks for people.

    Args:
        sources: The tasks.

    Returns:
        A name for each: the id of its data, and where several have that id, the tag of
        the artifact that it came from, or if there is none, the data's fingerprint.
    """
    counts = Counter(source.data.id for source in sources)
    return [
        source.data.id
        if counts[source.data.id] == 1
        else f"{source.data.id} ({_told_apart(source)})"
        for source in sources
    ]


def _told_apart(source: Source) -> str:
    if source.digest is None:
        return f"data {source.data.fingerprint[:12]}"
    return f"kfac-{short(source.digest)}"  # as tags are named
