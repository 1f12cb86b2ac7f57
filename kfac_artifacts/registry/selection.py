"""Which artifacts of a registry are wanted, and what is fetched to make one of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from kfac_artifacts.compress import Recipe
from kfac_artifacts.errors import AddressError, RegistryError, listed
from kfac_artifacts.registry.entries import Entry
from kfac_artifacts.registry.index import Collection, Index, folder_of


@dataclass(frozen=True)
class Selection:
    """What is wanted of a registry: by default the total.

    Attributes:
        tasks: These, merged.
        all_but: All but these, merged.
        recipe: Compressed by this recipe: the total if it is kept so, or else each as
            its owner published it.
        collection: In which collection; None for the only one that will do.
    """

    tasks: tuple[str, ...] = ()
    all_but: tuple[str, ...] = ()
    recipe: str | None = None
    collection: str | None = None

    def __post_init__(self) -> None:
        if self.tasks and self.all_but:
            raise AddressError("choose either --tasks or --all-but")

    @property
    def is_whole(self) -> bool:
        """Whether everything is wanted, as it is."""
        return self == Selection(collection=self.collection)


@dataclass(frozen=True)
class Piece:
    """An artifact that is fetched, and whether it is added (1) or taken out (-1)."""

    path: str
    entry: Entry
    sign: int = 1


def pieces_of(
    index: Index, selection: Selection, *, only_parts: bool = False
) -> list[Piece]:
    """Say what is fetched for a selection.

    Args:
        index: The registry.
        selection: What is wanted.
        only_parts: Whether totals may not be used, since they are not kept.

    Returns:
        The pieces, those that are added in the order in which they are merged.

    Raises:
        RegistryError: If something of it is not there.
    """
    named = (*selection.tasks, *selection.all_but)
    name = index.collection(selection.collection, has=named)
    collection = index.collections[name]
    _require(named, collection, name)
    recipe = selection.recipe and Recipe.parse(selection.recipe).name
    total = collection.total
    if recipe and total and not named and recipe in total.variants:
        entry = total.variants[recipe]
        return [Piece(folder_of(name, None, entry), entry)]
    wanted = selection.tasks or collection.current.keys() - set(selection.all_but)
    parts = _parts(name, collection, wanted, recipe)
    if not parts:
        raise RegistryError(f"nothing is left of {name}")
    if total is None or selection.tasks or recipe or only_parts:
        return parts
    out = _parts(name, collection, selection.all_but, None)
    whole = Piece(folder_of(name, None, total.entry), total.entry)
    taken_out = [Piece(p.path, p.entry, -1) for p in out]
    return _smaller([whole, *taken_out], parts) if out else [whole]


def _smaller(total: list[Piece], parts: list[Piece]) -> list[Piece]:
    """What is less to fetch; the total does not grow with the number of tasks."""
    sizes = [sum(piece.entry.bytes for piece in each) for each in (total, parts)]
    return total if sizes[0] < sizes[1] else parts


def _parts(
    name: str, collection: Collection, wanted: Iterable[str], recipe: str | None
) -> list[Piece]:
    found = []
    for task in sorted(wanted):
        version = collection.current[task]
        entry = version.entry(recipe)
        if entry is None:
            raise RegistryError(
                f"{task} is not published as {recipe}; choose of "
                f"{listed(list(version.variants), 8)}, or leave out --recipe"
            )
        found.append(Piece(folder_of(name, task, entry), entry))
    return found


def _require(tasks: Iterable[str], collection: Collection, name: str) -> None:
    missing = [task for task in tasks if task not in collection.current]
    if missing:
        raise RegistryError(
            f"{name} has no {listed(missing, 8)}; it has "
            f"{listed(list(collection.current), 20)}"
        )
