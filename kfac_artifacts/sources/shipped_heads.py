"""The heads beside a model that ``apply`` wrote: put there, and found again."""

from collections.abc import Sequence
from pathlib import Path

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.names import is_name
from kfac_artifacts.sources.models import DOWNLOADED, locate
from kfac_artifacts.sources.own_models import is_function
from kfac_artifacts.task_vector import (
    HEADS_FOLDER,
    Head,
    TaskVector,
    find_heads,
    load_head,
    save_head,
)

HEAD_FILES = (f"{HEADS_FOLDER}/*/head.json", f"{HEADS_FOLDER}/*/head.safetensors")


def head_names(
    names: Sequence[str] | None, vectors: Sequence[TaskVector]
) -> Sequence[str]:
    """Name the heads of task vectors, refusing names that are none of folders.

    Args:
        names: A name for each task vector; None for ``task-1``, ``task-2``, …
        vectors: The task vectors.

    Returns:
        The names.

    Raises:
        SettingsError: If one is none, or there are not as many.
    """
    if names is None:
        return [f"task-{i + 1}" for i in range(len(vectors))]
    bad = [n for n in names if not is_name(n) or "/" in n or n.startswith(".")]
    if bad or len(names) != len(vectors):
        raise SettingsError(
            f"{len(vectors)} task vectors need as many names for their heads, each of "
            f"which can be a folder; found {len(names)}: {', '.join(map(repr, names))}"
        )
    return names


def ship_heads(
    source: Path | None,
    target: Path,
    names: Sequence[str],
    vectors: Sequence[TaskVector],
) -> list[str]:
    """Put the heads of task vectors beside a model, and those that it has already.

    Args:
        source: The model that was added to; it may have heads. None if it is in no
            directory.
        target: The new model; it has none yet.
        names: What the head of each task vector is called; a name that is taken gets a
            number.
        vectors: The task vectors, with or without a head.

    Returns:
        The names of all heads that were written.
    """
    written = []
    for name, place in (find_heads(source) if source else {}).items():
        head, output_map = load_head(place)
        save_head(target / HEADS_FOLDER / name, head, output_map)
        written.append(name)
    for name, vector in zip(names, vectors, strict=True):
        if vector.head is not None:
            free = _free(name, written)
            save_head(target / HEADS_FOLDER / free, vector.head, vector.output_map)
            written.append(free)
    return written


def shipped_heads(model: str | Path) -> dict[str, tuple[Head, NamedConfig | None]]:
    """Read the heads beside a model.

    Args:
        model: A directory, or a Hub id.

    Returns:
        Each head with the output map that it is for, by name.
    """
    if is_function(model):
        return {}
    directory = locate(str(model), (*DOWNLOADED, *HEAD_FILES)).directory
    return {name: load_head(place) for name, place in find_heads(directory).items()}


def _free(name: str, taken: Sequence[str]) -> str:
    numbers = (f"{name}-{i}" for i in range(2, len(taken) + 3))
    return next(each for each in (name, *numbers) if each not in taken)
