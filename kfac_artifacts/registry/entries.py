"""What a registry says of one artifact, of one kind of artifact, and of one change."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.canonical import DIGEST
from kfac_artifacts.errors import FormatError
from kfac_artifacts.json_object import JsonObject

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}(?<!\.)")
"""Names of tasks and collections: parts of paths, so that nothing else may be one."""
CHANGE = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
RECIPE = re.compile(r"[a-z0-9][a-z0-9+%.-]{0,62}")
ADD, REMOVE, WITHDRAW, COMPRESS = "add", "remove", "withdraw", "compress"


@dataclass(frozen=True)
class Entry:
    """An artifact in a registry.

    Attributes:
        digest: Its digest.
        bytes: Size of its files.
        tasks: How many tasks are in it.
        examples: How many examples were used.
        size: How many examples the data have: the weight in merging.
        license: Licence identifier, or None.
    """

    digest: str
    bytes: int
    tasks: int
    examples: int
    size: int
    license: str | None = None

    @classmethod
    def from_json(cls, value: object, where: str) -> "Entry":
        """Read and check one."""
        fields = JsonObject(value, where)
        found = cls(
            digest_in(fields, "digest"),
            fields.count("bytes"),
            fields.count("tasks"),
            fields.count("examples"),
            fields.count("size"),
            fields.maybe_name("license"),
        )
        fields.finish()
        return found


@dataclass(frozen=True)
class Kind:
    """What artifacts must agree in to be merged, as far as people look for it.

    Attributes:
        base: What the base model is called.
        revision: Its commit, if known.
        sha256: One hash over the covered parameters.
        output_map: The function f.
        estimator: Name of the estimator.
        fit: Digest of everything that must agree.
    """

    base: str
    revision: str | None
    sha256: str
    output_map: NamedConfig
    estimator: str
    fit: str

    def to_json(self) -> dict[str, Any]:
        """Write it."""
        model = {"id": self.base, "revision": self.revision, "sha256": self.sha256}
        return {
            "base_model": model,
            "output_map": asdict(self.output_map),
            "estimator": self.estimator,
            "fit": self.fit,
        }

    @classmethod
    def taken(cls, fields: JsonObject) -> "Kind":
        """Read and check one among other fields."""
        base = JsonObject(fields.take("base_model", dict), "base_model")
        model = base.name("id"), base.maybe_name("revision"), base.sha256("sha256")
        base.finish()
        output_map = NamedConfig.from_json(
            fields.take("output_map", dict), "output_map"
        )
        return cls(
            *model, output_map, fields.name("estimator"), digest_in(fields, "fit")
        )


@dataclass(frozen=True)
class Change:
    """One change of a registry; its name orders it among others.

    Attributes:
        name: Time and some random digits.
        date: When it was made, in UTC.
        action: ``add``, ``remove``, ``withdraw`` or ``compress``.
        collection: Where.
        task: Which task; none where the total is to be compressed.
        kind: Of what is added.
        artifact: What is added.
        variants: The same compressed, by recipe.
        recipes: What the total is compressed by.
    """

    name: str
    date: str
    action: str
    collection: str
    task: str = ""
    kind: Kind | None = None
    artifact: Entry | None = None
    variants: Mapping[str, Entry] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Write it."""
        found: dict[str, Any] = {
            "name": self.name,
            "date": self.date,
            "action": self.action,
            "collection": self.collection,
        }
        if self.action == COMPRESS:
            return {**found, "recipes": list(self.recipes)}
        found["task"] = self.task
        if self.kind is not None and self.artifact is not None:
            found |= self.kind.to_json()
            found["artifact"] = asdict(self.artifact)
            found["variants"] = {r: asdict(e) for r, e in self.variants.items()}
        return found

    @classmethod
    def from_json(cls, value: object, where: str) -> "Change":
        """Read and check one."""
        fields = JsonObject(value, where)
        name = matching(fields.take("name", str), CHANGE, f"{where}.name")
        date = matching(fields.take("date", str), DATE, f"{where}.date")
        action = fields.take("action", str)
        known = {ADD, REMOVE, WITHDRAW, COMPRESS}
        fields.require(action in known, f"there is no action {action!r}")
        collection = matching(
            fields.take("collection", str), NAME, f"{where}.collection"
        )
        if action == COMPRESS:
            recipes = fields.list_of("recipes", _recipe)
            fields.finish()
            fields.require(len({*recipes}) == len(recipes), "a recipe is named twice")
            return cls(name, date, action, collection, recipes=recipes)
        task = matching(fields.take("task", str), NAME, f"{where}.task")
        if action != ADD:
            fields.finish()
            return cls(name, date, action, collection, task)
        kind = Kind.taken(fields)
        artifact = Entry.from_json(fields.take("artifact", dict), f"{where}.artifact")
        variants = variants_in(fields)
        fields.finish()
        return cls(name, date, action, collection, task, kind, artifact, variants)


def variants_in(fields: JsonObject) -> dict[str, Entry]:
    """Read the compressed forms of an artifact, by recipe."""
    found = fields.each("variants", Entry.from_json)
    return {
        matching(r, RECIPE, f"{fields.where}.variants"): e for r, e in found.items()
    }


def _recipe(value: object, where: str) -> str:
    return matching(str(value), RECIPE, where)


def digest_in(fields: JsonObject, key: str) -> str:
    """Take a digest."""
    return matching(fields.take(key, str), DIGEST, f"{fields.where}.{key}")


def matching(value: str, pattern: re.Pattern[str], where: str) -> str:
    """Check a string that becomes part of a path or is compared with one.

    Args:
        value: The string.
        pattern: What it must be.
        where: Where it was found, for the error.

    Returns:
        The string.

    Raises:
        FormatError: If it is something else.
    """
    if pattern.fullmatch(value) is None:
        raise FormatError(f"{where} is {value!r:.80}, which it cannot be")
    return value
