"""The reference reader of task vectors: ``spec/task_vector_reader.py DIRECTORY``.

Written from ``spec/task_vector.md`` alone; JSON, names, hashes and tensor files are
those of artifacts, and read as ``reader.py`` reads them.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from reader import read_tensors
from reader_json import LIMIT, Refused, demand, parse
from reader_manifest import check_base
from reader_members import (
    BASE,
    FILE,
    FREE,
    array,
    either,
    error,
    name,
    null_or,
    only,
    positive,
    record,
    whole,
)

__all__ = ["Refused", "read", "read_manifest"]

TEXT, TENSORS = "task_vector.json", "task_vector.safetensors"
BOTH = {"classes": array(name), "dim": whole()}
COSINES = record(BOTH | {"logit_scale": error})
LINEAR = record(BOTH | {"kind": only("linear")})
LAYER = either(
    record({"kind": only("linear"), "outputs": whole()}),
    record({"kind": only("layer-norm"), "epsilon": positive}),
    record({"kind": only("gelu", "gelu-tanh", "relu", "silu", "tanh")}),
)
LAYERS = record(BOTH | {"kind": only("layers"), "layers": array(LAYER, least=1)})
MANIFEST = record(
    {
        "format": only("kfac-task-vector"),
        "version": only(1),
        "base_model": BASE,
        "output_map": null_or(FREE),
        "head": null_or(either(COSINES, LINEAR, LAYERS)),
        "settings": lambda value: isinstance(value, dict),
        "metrics": lambda value: isinstance(value, dict),
        "files": record({TENSORS: FILE}),
    },
    open_=True,
)


def read_manifest(data: bytes) -> dict[str, Any]:
    """Read the text of a manifest: sections 3 and 5."""
    manifest = parse(data)
    demand(MANIFEST(manifest), "a field is wrong")
    base, head = manifest["base_model"], manifest["head"]
    demand(base["parameters"], "no parameter moved")
    check_base(base)
    classes = None if head is None else head["classes"]
    demand(classes is None or len(classes) >= 2, "less than two classes")
    demand(classes is None or len({*classes}) == len(classes), "a class twice")
    last = (head or {}).get("layers", [{"outputs": len(classes or ())}])[-1]
    demand(last.get("outputs") == len(classes or ()), "the last layer")
    return manifest


def announced(manifest: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Number type and shape of every tensor: section 4."""
    parameters, head = manifest["base_model"]["parameters"], manifest["head"]
    sizes = [(n, parameters[n]["shape"]) for n in sorted(parameters)]
    found = {f"tau/{n}": ("F32", shape) for n, shape in sizes}
    if head is not None:
        rows = [len(head["classes"]), head["dim"]]
        shapes = {"weight": rows, "bias": rows[:1]}
        if "kind" not in head:
            shapes = {"embeddings": rows}
        elif "layers" in head:
            shapes = of_layers(head["layers"], head["dim"])
        found |= {f"head/{n}": ("F32", shape) for n, shape in shapes.items()}
    return found


def of_layers(layers: list[dict[str, Any]], width: int) -> dict[str, list[int]]:
    """Shapes of what the layers of a head have, by name: T4.2."""
    found: dict[str, list[int]] = {}
    for i, layer in enumerate(layers):
        shape = [layer["outputs"], width] if "outputs" in layer else [width]
        if len(layer) > 1:
            found |= {f"{i}/weight": shape, f"{i}/bias": shape[:1]}
        width = layer.get("outputs", width)
    return found


def read(path: Path, *, hashes: bool = True) -> dict[str, np.ndarray]:
    """Read every tensor of a task vector, by its name in the file."""
    demand((path / TEXT).is_file(), "no manifest, or no regular file")
    demand((path / TEXT).stat().st_size <= LIMIT, "too much JSON")
    manifest = read_manifest((path / TEXT).read_bytes())
    file, told = path / TENSORS, manifest["files"][TENSORS]
    demand(file.is_file(), "the tensors are missing")
    demand(file.stat().st_size == told["size"], "size of the file")
    data, tensors = file.read_bytes(), announced(manifest)
    digest = hashlib.sha256(data).hexdigest()
    demand(not hashes or digest == told["sha256"], "hash of the file")
    found = read_tensors(data, tensors)
    demand(found.keys() == tensors.keys(), "a tensor is missing")
    values = {
        key: np.frombuffer(found[key], "<f4").reshape(shape)
        for key, (_, shape) in tensors.items()
    }
    demand(all(np.isfinite(v).all() for v in values.values()), "not finite")
    return values


def main(arguments: list[str]) -> int:
    """Read a task vector, and say what its tensors are."""
    if len(arguments) != 1:
        print(f"usage: python {sys.argv[0]} DIRECTORY", file=sys.stderr)
        return 2
    try:
        found = read(Path(arguments[0]))
    except (Refused, OSError) as error:
        print(f"{arguments[0]} is no task vector: {error}", file=sys.stderr)
        return 1
    for key, values in found.items():
        norm = np.linalg.norm(values.astype(float))
        print(f"{key}: {[*values.shape]}, norm {norm:.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
