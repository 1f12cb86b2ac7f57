"""What the manifest says of a head (``spec/task_vector.md``, section 5).

Manifests are read without torch: what is wrong with one is told at once.
"""

from dataclasses import dataclass
from typing import Any

from kfac_artifacts.format import TensorInfo
from kfac_artifacts.json_object import JsonObject, check_name, positive

LINEAR, LAYERS, NORM = "linear", "layers", "layer-norm"
ACTIVATIONS = ("gelu", "gelu-tanh", "relu", "silu", "tanh")


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a head, without its numbers.

    Attributes:
        kind: ``linear``, ``layer-norm`` or one of ``ACTIVATIONS``.
        outputs: How many outputs a linear layer has; None of others.
        epsilon: What a layer norm adds to the variance; None of others.
    """

    kind: str
    outputs: int | None = None
    epsilon: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON."""
        own = {"outputs": self.outputs, "epsilon": self.epsilon}
        return {"kind": self.kind} | {n: v for n, v in own.items() if v is not None}


@dataclass(frozen=True)
class HeadInfo:
    """A head without its numbers; ``dim`` is the size C of the outputs it takes.

    The logit scale is that of class embeddings, and None for layers. Of a single linear
    layer there are no ``layers``.
    """

    classes: tuple[str, ...]
    dim: int
    logit_scale: float | None
    layers: tuple[LayerInfo, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Its tensors by their names in the file, in order."""
        return {f"head/{n}": TensorInfo("float32", s) for n, s in self._shapes.items()}

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = (len(self.classes), self.dim)
        if self.logit_scale is not None:
            return {"embeddings": rows}
        if not self.layers:
            return {"weight": rows, "bias": rows[:1]}
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.dim
        for i, layer in enumerate(self.layers):
            shape: tuple[int, ...] = (width,)
            if layer.outputs is not None:
                shape, width = (layer.outputs, width), layer.outputs
            if layer.kind not in ACTIVATIONS:
                shapes |= {f"{i}/weight": shape, f"{i}/bias": shape[:1]}
        return shapes

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON, in the order of the specification."""
        told: dict[str, Any] = {"classes": [*self.classes], "dim": self.dim}
        if self.logit_scale is not None:
            return told | {"logit_scale": self.logit_scale}
        if not self.layers:
            return told | {"kind": LINEAR}
        return told | {"kind": LAYERS, "layers": [x.to_json() for x in self.layers]}


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
    known = kind in {None, LINEAR, LAYERS}
    fields.require(known, f"kind must be {LINEAR!r} or {LAYERS!r}, if it is there")
    scale = fields.number("logit_scale") if kind is None else None
    layers = fields.list_of("layers", _read_layer) if kind == LAYERS else ()
    fields.require(
        len(set(classes)) == len(classes) >= 2, "classes must be 2 or more names"
    )
    if kind == LAYERS:
        last = layers[-1] if layers else None
        fields.require(
            last is not None and last.outputs == len(classes),
            "the last of the layers must be linear, with an output for each class",
        )
    fields.finish()
    return HeadInfo(classes, dim, scale, layers)


def _read_layer(value: object, where: str) -> LayerInfo:
    fields = JsonObject(value, where)
    kind = fields.take("kind", str)
    known = (LINEAR, NORM, *ACTIVATIONS)
    fields.require(kind in known, f"kind must be one of {', '.join(known)}")
    outputs = fields.count("outputs") if kind == LINEAR else None
    epsilon = None
    if kind == NORM:
        epsilon = positive(fields.take("epsilon", object), f"{where}.epsilon")
    fields.finish()
    return LayerInfo(kind, outputs, epsilon)
