"""The index of a registry: what all of its changes come to (``spec/registry.md``)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from kfac_artifacts.canonical import digest_of
from kfac_artifacts.errors import RegistryError, listed
from kfac_artifacts.format import check_version, dump_json, parse_json
from kfac_artifacts.hub import tag_of
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.registry.entries import (
    COMPRESS,
    NAME,
    WITHDRAW,
    Change,
    Entry,
    Kind,
    digest_in,
    matching,
    variants_in,
)

INDEX, FORMAT, VERSION = "registry.json", "kfac-registry", 1
_SEVERAL = "there are several collections; choose one with --collection: {}"


@dataclass(frozen=True)
class Version:
    """What was added at one time.

    Attributes:
        date: When.
        artifact: The artifact.
        variants: The same compressed, by recipe.
        base: What its own base model is called: others may name the same weights
            otherwise.
    """

    date: str
    artifact: Entry
    variants: Mapping[str, Entry]
    base: str


@dataclass(frozen=True)
class Task:
    """All versions of a task, the last of which counts unless it was removed.

    There is none of a task that was withdrawn.
    """

    versions: tuple[Version, ...] = ()
    removed: bool = False

    @property
    def current(self) -> Version | None:
        """What is in the total of it."""
        return None if self.removed else self.versions[-1]

    def after(self, change: Change) -> "Task":
        """The task once it is changed."""
        if change.action == WITHDRAW:
            return Task(removed=True)
        if change.artifact is None:
            return replace(self, removed=True)
        before = {v.artifact.digest: v for v in self.versions}
        same = before.pop(change.artifact.digest, None)
        variants = {**(same.variants if same else {}), **change.variants}
        base = "" if change.kind is None else change.kind.base
        new = Version(change.date, change.artifact, variants, base)
        return Task((*before.values(), new))


@dataclass(frozen=True)
class Total:
    """The merge of all current versions of a collection.

    Attributes:
        entry: The artifact.
        parts: Digest of what it is the merge of: ``Collection.parts``.
        variants: The same compressed, by recipe.
    """

    entry: Entry
    parts: str
    variants: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """It, and its compressed forms."""
        return (self.entry, *self.variants.values())


@dataclass(frozen=True)
class Collection:
    """Artifacts that can be merged with one another."""

    kind: Kind
    tasks: Mapping[str, Task] = field(default_factory=dict)
    total: Total | None = None
    recipes: tuple[str, ...] = ()

    @cached_property
    def current(self) -> dict[str, Version]:
        """What is in it, by task, in the order in which it is merged."""
        found = ((name, task.current) for name, task in sorted(self.tasks.items()))
        return {name: version for name, version in found if version is not None}

    @property
    def bases(self) -> tuple[str, ...]:
        """What the base model is called by those that are in it: once each."""
        found = dict.fromkeys(v.base for v in self.current.values())
        return tuple(found) or (self.kind.base,)

    @property
    def parts(self) -> str:
        """Names what the total has to be the merge of."""
        return digest_of([[n, v.artifact.digest] for n, v in self.current.items()])

    @property
    def is_settled(self) -> bool:
        """Whether its total is of what is in it, with the compressed forms it needs."""
        total = self.total
        settled = total is not None and total.parts == self.parts
        return settled and total is not None and {*total.variants} == {*self.recipes}


@dataclass(frozen=True)
class Index:
    """A registry, but for the artifacts themselves.

    Attributes:
        changes: All changes, in order.
        totals: By collection.
    """

    changes: tuple[Change, ...] = ()
    totals: Mapping[str, Total] = field(default_factory=dict)

    @cached_property
    def collections(self) -> dict[str, Collection]:
        """What the changes come to."""
        found: dict[str, Collection] = {}
        for change in self.changes:
            if change.kind is not None:
                new = Collection(change.kind, total=self.totals.get(change.collection))
                found.setdefault(change.collection, new)
            before = found.get(change.collection)
            if before is not None and change.action == COMPRESS:
                found[change.collection] = replace(before, recipes=change.recipes)
                continue
            task = before.tasks.get(change.task) if before else None
            if before is None or (task is None and change.kind is None):
                continue  # a removal of what is not there
            tasks = {**before.tasks, change.task: (task or Task()).after(change)}
            found[change.collection] = replace(before, tasks=tasks)
        return found

    @property
    def artifacts(self) -> int:
        """How many artifacts are kept, totals among them."""
        tasks = [t for c in self.collections.values() for t in c.tasks.values()]
        versions = [v for task in tasks for v in task.versions]
        totals = sum(len(total.entries) for total in self.totals.values())
        return totals + sum(1 + len(v.variants) for v in versions)

    def with_changes(self, changes: Iterable[Change]) -> "Index":
        """The index after more changes, of which some may be in it already."""
        every = {c.name: c for c in (*self.changes, *changes)}
        return replace(self, changes=tuple(c for _, c in sorted(every.items())))

    def collection(self, name: str | None, *, has: Iterable[str] = ()) -> str:
        """Choose a collection.

        Args:
            name: What it is called; None for the only one.
            has: Tasks that it has.

        Returns:
            Its name.

        Raises:
            RegistryError: If there is none of that name, or several will do.
        """
        known = sorted(n for n, c in self.collections.items() if c.current)
        if name is not None:
            if name not in self.collections:
                raise RegistryError(
                    f"there is no collection {name!r}; there are {listed(known, 8)}"
                )
            return name
        fitting = [
            n for n in known if all(t in self.collections[n].current for t in has)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if not known:
            raise RegistryError("nothing is in this registry")
        if not fitting:
            tasks = sorted({t for n in known for t in self.collections[n].current})
            raise RegistryError(
                f"no collection has {listed(list(has), 8)}; the tasks are "
                f"{listed(tasks, 20)}"
            )
        raise RegistryError(_SEVERAL.format(listed(fitting, 8)))

    def collection_with(self, task: str, name: str | None) -> str:
        """Choose the collection that has ever had a task.

        Args:
            task: The task.
            name: What it is called; None for the only one.

        Returns:
            Its name.

        Raises:
            RegistryError: If none has it, or several have.
        """
        every = self.collections.items()
        having = [n for n, c in every if task in c.tasks and name in {None, n}]
        if not having:
            known = sorted({task for _, c in every for task in c.tasks})
            raise RegistryError(f"there is no {task!r}; there are {listed(known, 20)}")
        if len(having) > 1:
            raise RegistryError(_SEVERAL.format(listed(having, 8)))
        return having[0]

    def to_bytes(self) -> bytes:
        """Write it: what readers need, and the changes that it follows from."""
        collections = {n: _collection(c) for n, c in sorted(self.collections.items())}
        changes = [change.to_json() for change in self.changes]
        head = {"format": FORMAT, "version": VERSION}
        return dump_json({**head, "collections": collections, "changes": changes})

    @classmethod
    def from_bytes(cls, text: bytes, where: str) -> "Index":
        """Read and check one.

        Args:
            text: The content of ``registry.json``.
            where: Where it is, for errors.

        Returns:
            The index; what it says of collections is what its changes come to.

        Raises:
            FormatError: If it breaks ``spec/registry.md``.
        """
        fields = JsonObject(parse_json(text, where), where)
        check_version(fields, FORMAT, VERSION)
        told = fields.take("collections", dict)
        changes = fields.list_of("changes", Change.from_json)
        fields.finish(extensible=True)
        index = cls().with_changes(changes)
        fields.require(
            told.keys() == index.collections.keys(),
            "its collections are not those of its changes",
        )
        totals = {
            matching(name, NAME, where): _total(value, f"{where}.{name}")
            for name, value in told.items()
        }
        index = replace(index, totals={n: t for n, t in totals.items() if t})
        shown = parse_json(index.to_bytes(), where)["collections"]
        fields.require(
            told == shown, "its collections are not what its changes come to"
        )
        return index


def folder_of(collection: str, task: str | None, entry: Entry) -> str:
    """Where in a registry an artifact stands; of None, the total."""
    place = "total" if task is None else f"tasks/{task}"
    return f"{collection}/{place}/{tag_of(entry.digest)}"


def _collection(collection: Collection) -> dict[str, Any]:
    total = collection.total
    told = None if total is None else {**asdict(total.entry), "parts": total.parts}
    if told is not None and total is not None and total.variants:
        told["variants"] = {r: asdict(e) for r, e in sorted(total.variants.items())}
    recipes = {"recipes": list(collection.recipes)} if collection.recipes else {}
    tasks = {
        name: {
            "removed": task.removed,
            "versions": [
                {
                    "date": v.date,
                    "artifact": asdict(v.artifact),
                    "variants": {r: asdict(e) for r, e in v.variants.items()},
                }
                for v in task.versions
            ],
        }
        for name, task in sorted(collection.tasks.items())
    }
    return {**collection.kind.to_json(), "total": told, **recipes, "tasks": tasks}


def _total(value: object, where: str) -> Total | None:
    """Read the total, which is all of a collection that no change tells."""
    told = JsonObject(value, where).maybe("total", dict)
    if told is None:
        return None
    own = dict(told)
    parts = digest_in(JsonObject({"parts": own.pop("parts", 0)}, where), "parts")
    variants = variants_in(JsonObject({"variants": own.pop("variants", {})}, where))
    return Total(Entry.from_json(own, where), parts, variants)
