"""What the manifest says of a head (``spec/task_vector.md``, section 5).

Manifests are read without torch: what is wrong with one is told at once.
"""

from dataclasses import dataclass
from typing import Any

from kfac_artifacts.format import TensorInfo
from kfac_artifacts.json_object import JsonObject, check_name

LINEAR = "linear"


@dataclass(frozen=True)
class HeadInfo:
    """A head without its numbers; ``dim`` is the size C of the outputs it takes.

    The logit scale is that of class embeddings, and None for a linear layer.
    """

    classes: tuple[str, ...]
    dim: int
    logit_scale: float | None

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Its tensors by their names in the file, in order."""
        rows = (len(self.classes), self.dim)
        shapes: dict[str, tuple[int, ...]] = (
            {"weight": rows, "bias": rows[:1]}
            if self.logit_scale is None
            else {"embeddings": rows}
        )
        return {f"head/{n}": TensorInfo("float32", s) for n, s in shapes.items()}

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON, in the order of the specification."""
        how = (
            {"kind": LINEAR}
            if self.logit_scale is None
            else {"logit_scale": self.logit_scale}
        )
        return {"classes": [*self.classes], "dim": self.dim, **how}


def read_head(value: object) -> HeadInfo:
    """Read and check what a manifest says of a head.

    Args:
        value: Parsed JSON.

    Returns:
        The head without its numbers.

    Raises:
        FormatError: If a MUST of the specification is broken.
    """
    fields = JsonObject(value, "head")
    classes = fields.list_of("classes", check_name)
    dim, kind = fields.count("dim"), fields.optional("kind", str)
    fields.require(kind in {None, LINEAR}, f"kind must be {LINEAR!r}, if it is there")
    scale = fields.number("logit_scale") if kind is None else None
    fields.require(
        len(set(classes)) == len(classes) >= 2, "classes must be 2 or more names"
    )
    fields.finish()
    return HeadInfo(classes, dim, scale)
