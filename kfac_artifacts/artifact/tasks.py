"""What tells the tasks of an artifact apart: their names, and their inputs."""

from collections import Counter
from collections.abc import Mapping, Sequence

from kfac_artifacts.artifact.provenance import NamedConfig, Source

USUAL = {"prompt": "", "lower_case": False, "padding": "longest"}
"""What is not recorded where nothing special was done."""


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
    return f"kfac-{source.digest[:12]}"  # as tags are named


def preprocessing_differences(theirs: NamedConfig, ours: NamedConfig) -> list[str]:
    """Say in words how two ways to make examples into inputs differ.

    Args:
        theirs: One way, as it was recorded.
        ours: The other one.

    Returns:
        What differs. Names of columns change no input, and of tensors that somebody
        made for themselves nothing is known.
    """
    if "tensors" in {theirs.name, ours.name}:
        return []
    if theirs.name != ours.name:
        return [f"{theirs.name}, not {ours.name}"]
    one, other = _settings(theirs), _settings(ours)
    return [
        f"{key} {_shown(key, one)}, not {_shown(key, other)}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def _shown(key: str, settings: Mapping[str, object]) -> str:
    value = settings.get(key, USUAL.get(key, "unknown"))
    return repr(value) if key == "prompt" else str(value)


def _settings(way: NamedConfig) -> dict[str, object]:
    settings: dict[str, object] = dict(way.configuration)
    columns = settings.pop("columns", None)
    settings.pop("column", None)
    if isinstance(columns, list):
        settings["texts per example"] = len(columns)
    return settings
