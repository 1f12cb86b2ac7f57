"""Which columns of a table hold the texts, the images and the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from kfac_artifacts.errors import SourceError

USUAL_TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question")
USUAL_IMAGE_COLUMNS = ("image", "img")
STRINGS = ("string", "large_string")


@dataclass(frozen=True)
class Labels:
    """The class of every example, as an index into the names of the classes."""

    indices: Sequence[int] = ()
    classes: Sequence[str] = ()


def text_columns(
    features: Mapping[str, Any], asked: Sequence[str], label: str | None
) -> tuple[str, ...]:
    """Choose the columns of texts.

    Args:
        features: The table's columns with their types.
        asked: The columns named by the user, if any.
        label: The column of labels, which is no candidate.

    Returns:
        One column, or two that form a pair.

    Raises:
        SourceError: If a named column is not there or holds no texts, or if none was
            named and none is the obvious one.
    """
    found = [name for name in features if _is_text(features[name])]
    if len(asked) > 2:
        raise SourceError(f"a model reads one text or a pair, not {len(asked)} columns")
    for name in asked:
        _check_column(features, name)
        if name not in found:
            raise SourceError(
                f"column {name!r} holds no texts; columns of texts are {_listed(found)}"
            )
    if asked:
        return tuple(asked)
    candidates = [name for name in found if name != label]
    usual = [name for name in USUAL_TEXT_COLUMNS if name in candidates]
    if len(candidates) != 1 and not usual:
        raise SourceError(
            "which column holds the texts? name it; columns of texts are "
            f"{_listed(candidates)}, of {_listed(features)}"
        )
    return ((usual or candidates)[0],)


def image_column(features: Mapping[str, Any], asked: str | None) -> str:
    """Choose the column of images.

    Args:
        features: The table's columns with their types.
        asked: The column named by the user, if any.

    Returns:
        The column.

    Raises:
        SourceError: If the named column is not there or holds no images, or if none was
            named and none is the obvious one.
    """
    if asked is not None:
        _check_column(features, asked)
        if not (
            isinstance(features[asked], datasets.Image) or _is_text(features[asked])
        ):
            raise SourceError(
                f"column {asked!r} holds neither images nor paths to them"
            )
        return asked
    found = [n for n, kind in features.items() if isinstance(kind, datasets.Image)]
    usual = [name for name in USUAL_IMAGE_COLUMNS if name in features]
    if len(found) != 1 and not usual:
        raise SourceError(
            f"which column holds the images? name it; columns are {_listed(features)}"
        )
    return found[0] if len(found) == 1 else usual[0]


def read_labels(rows: Any, column: str | None, known: Sequence[str]) -> Labels:
    """Read the class of every example.

    Args:
        rows: The table.
        column: The column of classes; None for no labels.
        known: Names of all classes in order; none for the ones found.

    Returns:
        The labels. Classes are in the order of ``known``, else as the dataset declares
        them, else sorted.

    Raises:
        SourceError: If there is no such column, a label is missing, or a class is not
            among the known ones.
    """
    if column is None:
        return Labels()
    _check_column(rows.features, column)
    values = rows[column][:]
    feature = rows.features[column]
    declared = list(feature.names) if isinstance(feature, datasets.ClassLabel) else []
    absent = (None, -1) if declared else (None, "")
    missing = [i for i, value in enumerate(values) if value in absent]
    if missing:
        raise SourceError(
            f"{len(missing)} examples have no label in column {column!r}, the first is "
            f"number {missing[0]}"
        )
    names = [declared[v] for v in values] if declared else [str(v) for v in values]
    classes = list(known) or declared or [str(v) for v in sorted(set(values))]
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise SourceError(
            f"column {column!r} has classes that are not known: {_listed(unknown)}; "
            f"known are {_listed(classes)}"
        )
    position = {name: i for i, name in enumerate(classes)}
    return Labels([position[name] for name in names], classes)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in STRINGS


def _check_column(features: Mapping[str, Any], name: str) -> None:
    if name not in features:
        raise SourceError(
            f"there is no column {name!r}; columns are {_listed(features)}"
        )


def _listed(names: Any) -> str:
    names = list(names)
    few = ", ".join(map(str, names[:20])) or "none"
    return few if len(names) <= 20 else f"{few} and {len(names) - 20} more"
