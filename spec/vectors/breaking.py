"""What the invalid vectors share: a valid artifact, and ways to break one rule.

The level of a case says how far a reader gets:

- ``json``: ``kfac.json`` is not JSON as section 6 wants it;
- ``schema``: the JSON Schema refuses it;
- ``manifest``: the schema cannot say it, the manifest alone shows it;
- ``files``: the manifest is right, the files do not fit it;
- ``hash``: only a hash shows it;
- ``values``: the values of the tensors show it, to whoever decodes them;
- ``verify``: the values show it, to whoever checks what can be decoded.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from draft import Draft, artifact, compact, gramian, kronecker, spd
from stored import dense

Edit = Callable[[dict[str, Any]], object]
STACK = "stacked.weight"


CITES = re.compile(r"(?:(?:[RTM][0-9.]+|[a-z_0-9]+\.[0-9]+) )+")
"""Numbers of rules before what a rule says: ``R6.1 ``, ``R8.7 int8.3 ``."""


@dataclass
class Case:
    """A broken rule, and the artifact that breaks it, as files.

    ``rule`` begins with the numbers that the pages give to what is broken.
    """

    name: str
    level: str
    rule: str
    files: dict[str, bytes]

    def to_json(self) -> dict[str, object]:
        """Describe the case in the index."""
        cites = CITES.match(self.rule)
        if cites is None:
            raise ValueError(f"{self.name} cites no rule: {self.rule}")
        rule = self.rule[cites.end() :]
        return {"level": self.level, "cites": cites[0].split(), "rule": rule}


def whole(*, shards: list[list[str]] | None = None) -> Draft:
    """The valid artifact that all the others are made from."""
    return artifact(
        {"layer.weight": [2, 3], "layer.bias": [2], "norm.weight": [2]},
        {
            "layer": kronecker("layer.weight", ("in", "out"), bias="layer.bias"),
            "norm": gramian("norm.weight", "norm"),
        },
        {
            "in": dense(spd(4, 1), "symmetric-float32"),
            "out": dense(spd(2, 2), "float16"),
            "norm": dense(spd(2, 3)),
        },
        shards=shards,
    )


def stacked() -> Draft:
    """The same with a stacked parameter of two parts, and a bias."""
    parts = {
        f"part.{i}": kronecker(STACK, ("in", "out"), bias="stacked.bias", part=i)
        for i in range(2)
    }
    return artifact(
        {STACK: [2, 2, 3], "stacked.bias": [2, 2], "norm.weight": [2]},
        parts | {"norm": gramian("norm.weight", "norm")},
        {
            "in": dense(spd(4, 1), "symmetric-float32"),
            "out": dense(spd(2, 2), "float16"),
            "norm": dense(spd(2, 3)),
        },
    )


def put(path: str, value: object) -> Edit:
    """Set one field; ``path`` is written with slashes, a number is an index."""

    def edit(manifest: dict[str, Any]) -> None:
        parent, key = _find(manifest, path)
        parent[key] = value

    return edit


def drop(path: str) -> Edit:
    """Remove one field."""

    def edit(manifest: dict[str, Any]) -> None:
        parent, key = _find(manifest, path)
        del parent[key]

    return edit


def _find(manifest: dict[str, Any], path: str) -> tuple[Any, Any]:
    *parents, key = path.split("/")
    found: Any = manifest
    for name in parents:
        found = found[int(name) if name.isdigit() else name]
    return found, int(key) if key.isdigit() else key


def edited(
    level: str,
    name: str,
    rule: str,
    *edits: Edit,
    make: Callable[[], Draft] = whole,
) -> Case:
    """Break the manifest."""
    draft = make()
    for edit in edits:
        edit(draft.manifest)
    return Case(name, level, rule, files_of(draft))


def rewritten(name: str, rule: str, rewrite: Callable[[str], str | bytes]) -> Case:
    """Break the text of the manifest."""
    files = files_of(whole())
    text = rewrite(files["kfac.json"].decode())
    files["kfac.json"] = text if isinstance(text, bytes) else text.encode()
    return Case(name, "json", rule, files)


def files_of(draft: Draft) -> dict[str, bytes]:
    """Give the files of an artifact."""
    return {"kfac.json": compact(draft.manifest), **draft.files}
