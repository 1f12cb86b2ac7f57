"""The model card of a task vector: its base model, and what held it back."""

import math
import shlex

from kfac_artifacts.hub.card import hub_id, metadata
from kfac_artifacts.hub.mark import marked
from kfac_artifacts.hub.markdown import code, plain_text, table
from kfac_artifacts.task_vector import Manifest

TAGS = ["kfac", "task-vector", "task-arithmetic"]


def vector_card(about: Manifest, size: int, place: str, license: str | None) -> str:
    """Describe a task vector.

    Args:
        about: What its manifest says.
        size: Size of its files in bytes.
        place: Address to pull it from.
        license: Licence identifier of the Hub, or None to leave it open.

    Returns:
        Markdown with a YAML head, and a mark that shows later edits.
    """
    base = about.base
    numbers = sum(math.prod(shape) for shape in base.shapes.values())
    data = about.settings.get("data")
    rows = [
        ["base model", code(base.id)],
        ["revision", code(base.revision or "unknown")],
        ["hash of its changed parameters", code(base.sha256)],
        ["trained on", code(_named(data, "id") or "unknown")],
        ["parameters changed", f"{len(base.parameters)} ({numbers:,} numbers)"],
        ["classes of its head", str(len(about.head.classes)) if about.head else "none"],
        ["size", f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size:,} bytes"],
    ]
    parts = [
        metadata(base_model=hub_id(base), license=license, tags=TAGS),
        f"# A task vector of {plain_text(base.id)}",
        f"What fine-tuning added to some parameters of {code(base.id)}: task vectors "
        "of one base model can be added together. Made with kfac-artifacts; the files "
        "are safetensors and JSON.",
        table(["", "what is inside"], rows),
        "## Curvature that held it back\n\n" + _curvature(about),
        f"## Use\n\n```sh\npip install kfac-artifacts\nkfac pull {shlex.quote(place)} "
        "tau\nkfac apply MODEL tau -o model\n```",
    ]
    return marked("\n\n".join(parts) + "\n\n")


def _curvature(about: Manifest) -> str:
    """Which data it was not to disturb, as its settings tell."""
    told = about.settings.get("curvature")
    rows = [
        [code(_named(each, "data")), _named(each, "size"), code(_named(each, "digest"))]
        for each in (told if isinstance(told, list) else ())
    ]
    if not rows:
        return "None: it was trained without, or does not say."
    return table(["data", "examples", "artifact"], rows)


def _named(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return "" if found is None else plain_text(str(found))
