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
        recipe: Compressed by this recipe: the total as it is kept, or each task as its
            owner published it; where one of them was not, by whoever takes it.
        collection: In which collection; None for the only one that will do.
    """

    tasks: tuple[str, ...] = ()
    all_but: tuple[str, ...] = ()
    recipe: str | None = None
    collection: str | None = None

    def __post_init__(self) -> None:
        if self.tasks and self.all_but:
            raise AddressError("choose either --tasks or --all-but")


@dataclass(frozen=True)
class Piece:
    """An artifact that is fetched, and whether it is added (1) or taken out (-1)."""

    path: str
    entry: Entry
    sign: int = 1


@dataclass(frozen=True)
class Way:
    """How what is wanted is made.

    Attributes:
        pieces: What is fetched, and merged in that order.
        recipe: By what the merge is compressed then, or None.
        lacking: The tasks for which that is so: they are not published compressed.
    """

    pieces: tuple[Piece, ...]
    recipe: str | None = None
    lacking: tuple[str, ...] = ()


def way_of(index: Index, selection: Selection, *, only_parts: bool = False) -> Way:
    """Say how a selection is made.

    Args:
        index: The registry.
        selection: What is wanted.
        only_parts: Whether totals may not be used, since they are not kept.

    Returns:
        The way with the least to fetch, or the one by parts.

    Raises:
        RegistryError: If something of it is not there.
        SettingsError: If there is no such recipe.
    """
    named = (*selection.tasks, *selection.all_but)
    name = index.collection(selection.collection, has=named)
    collection = index.collections[name]
    _require(named, collection, name)
    wanted = selection.tasks or collection.current.keys() - set(selection.all_but)
    if not wanted:
        raise RegistryError(f"nothing is left of {name}")
    whole = _pieces(name, collection, selection, wanted, only_parts=only_parts)
    recipe = selection.recipe and Recipe.parse(selection.recipe).name
    if not recipe:
        return Way(whole)
    total = collection.total
    if total and not named and recipe in total.variants:
        entry = total.variants[recipe]
        kept = (Piece(folder_of(name, None, entry), entry),)
        return Way(whole, recipe) if only_parts else Way(kept)
    lacking = tuple(
        t for t in sorted(wanted) if recipe not in collection.current[t].variants
    )
    if lacking:
        return Way(whole, recipe, lacking)
    return Way(_parts(name, collection, wanted, recipe))


def _pieces(
    name: str,
    collection: Collection,
    selection: Selection,
    wanted: Iterable[str],
    *,
    only_parts: bool,
) -> tuple[Piece, ...]:
    """What is fetched of uncompressed artifacts."""
    parts, total = _parts(name, collection, wanted), collection.total
    if total is None or selection.tasks or only_parts:
        return parts
    out = _parts(name, collection, selection.all_but)
    whole = Piece(folder_of(name, None, total.entry), total.entry)
    taken_out = (Piece(p.path, p.entry, -1) for p in out)
    return _smaller((whole, *taken_out), parts) if out else (whole,)


def _smaller(total: tuple[Piece, ...], parts: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """What is less to fetch; the total does not grow with the number of tasks."""
    sizes = [sum(piece.entry.bytes for piece in each) for each in (total, parts)]
    return total if sizes[0] < sizes[1] else parts


def _parts(
    name: str, collection: Collection, wanted: Iterable[str], recipe: str | None = None
) -> tuple[Piece, ...]:
    """The artifacts of some tasks, or what all of them were published as."""
    found = []
    for task in sorted(wanted):
        version = collection.current[task]
        entry = version.artifact if recipe is None else version.variants[recipe]
        found.append(Piece(folder_of(name, task, entry), entry))
    return tuple(found)


def _require(tasks: Iterable[str], collection: Collection, name: str) -> None:
    missing = [task for task in tasks if task not in collection.current]
    if missing:
        raise RegistryError(
            f"{name} has no {listed(missing, 8)}; it has "
            f"{listed(list(collection.current), 20)}"
        )
