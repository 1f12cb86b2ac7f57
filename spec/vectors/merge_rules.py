"""Which rules of section 11 a case breaks, so that each breaks the one that it says."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from draft import Draft, canonical
from merge_results import known

LARGEST = 2**53 - 1
Drafts = Sequence[Draft]


def broken(
    operation: str, added: Drafts, taken: Drafts, weighting: str
) -> dict[str, None]:
    """Tell every rule that is broken: its number, and what it is about."""
    if operation == "join":
        return dict.fromkeys(chain(of_joining(added), in_common(added)))
    if operation == "compress":
        return {}
    found = chain(
        differences([*added, *taken]),
        of_blocks(added, taken),
        of_weighting([*added, *taken], weighting),
        of_tasks(added, taken),
    )
    return dict.fromkeys(found)


def differences(drafts: Drafts) -> Iterator[str]:
    """What must be the same, and is not."""
    first, *others = (draft.manifest for draft in drafts)
    for other in others:
        if not same(first["output_map"], other["output_map"]):
            yield "R11.1 output_map"
        if first["estimator"]["name"] != other["estimator"]["name"]:
            yield "R11.1 estimator"
        ours, theirs = (m["base_model"]["parameters"] for m in (first, other))
        if ours != theirs:
            yield "R11.1 parameters"
        if ours.keys() == theirs.keys():  # else blocks differ with them
            yield from differences_of_blocks(first["blocks"], other["blocks"])


def differences_of_blocks(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[str]:
    """What must be the same of blocks."""
    if ours.keys() != theirs.keys():
        yield "R11.1 names of blocks"
    for name in ours.keys() & theirs.keys():
        one, two = ours[name], theirs[name]
        if one["kind"] != two["kind"]:
            yield "R11.1 kind of a block"
            continue
        for key in ("layout", "part", "constant"):
            if one.get(key) != two.get(key):
                yield f"R11.1 {key} of a block"
        if any(one.get(k) != two.get(k) for k in ("weight", "bias", "parameter")):
            yield "R11.1 parameters of a block"


def of_blocks(added: Drafts, taken: Drafts) -> Iterator[str]:
    """Blocks that cannot be merged, or not taken out."""
    blocks = [b for d in (*added, *taken) for b in d.manifest["blocks"].values()]
    if any(b["kind"] == "kronecker" and len(b["terms"]) > 1 for b in blocks):
        yield "R11.3 several terms"
    if taken and any(b["kind"] == "eigen" for b in blocks):
        yield "eigen.8 eigen blocks"


def of_weighting(drafts: Drafts, weighting: str) -> Iterator[str]:
    """Totals that were merged otherwise, and what cannot be weighed."""
    manifests = [draft.manifest for draft in drafts]
    totals = [m.get("weighting", "size") for m in manifests if m["tasks"] > 1]
    if {*totals} - {weighting}:
        yield "R11.22 weighting"
    blocks = [b for m in manifests for b in m["blocks"].values()]
    if weighting == "positions" and not all("positions" in b for b in blocks):
        yield "R7.5.9 positions"


def of_tasks(added: Drafts, taken: Drafts) -> Iterator[str]:
    """Tasks that are there twice, or not at all, and their sum."""
    kept = [task for draft in added for task in known(draft)]
    digests = Counter(task["digest"] for task in kept)
    del digests[None]
    if max(digests.values(), default=1) > 1:
        yield "R11.10 counted twice"
    for task in (task for draft in taken for task in known(draft)):
        same_task = [own for own in kept if own["digest"] == task["digest"]]
        if not same_task:
            yield "R11.11 not among the tasks"
            return
        kept.remove(same_task[0])
    if not kept:
        yield "R11.12 no task left"
    if sum(task["data"]["size"] for task in kept) > LARGEST:
        yield "R11.4 size"


def of_joining(parts: Drafts) -> Iterator[str]:
    """What is not of one estimation."""
    manifests = [part.manifest for part in parts]
    if any(m["tasks"] > 1 for m in manifests):
        yield "R11.16 several tasks"
    if any("privacy" in task for m in manifests for task in m["sources"]):
        yield "R7.3.7 noise of its own"
    first, *others = map(estimated, manifests)
    for other in others:
        for key, value in first.items():
            if not same(value, other[key]):
                yield f"R11.16 {key}"


def estimated(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is the same of one estimation."""
    task = manifest["sources"][0]
    return {
        "base_model.id": manifest["base_model"]["id"],
        "output_map": manifest["output_map"],
        "estimator": manifest["estimator"]["name"],
        "data": task["data"],
        "cotangents": task["cotangents"],
    }


def in_common(parts: Drafts) -> Iterator[str]:
    """What more than one covers."""
    manifests = [part.manifest for part in parts]
    for what, names in (
        ("parameter", [n for m in manifests for n in m["base_model"]["parameters"]]),
        ("block", [n for m in manifests for n in m["blocks"]]),
        ("factor", [n for m in manifests for n in m["factors"]]),
    ):
        if len(names) != len({*names}):
            yield f"R11.17 {what}"


def same(one: object, other: object) -> bool:
    """Whether two values have one canonical form (section 6)."""
    return canonical(one) == canonical(other)
