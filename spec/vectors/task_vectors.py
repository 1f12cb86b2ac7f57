"""The vectors of task vectors: small ones, and ways to break a rule of their page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from breaking import Case, drop, put
from draft import base_model, compact, named, sha256, split, tensor_file, with_header
from layered_heads import (
    LAYERED_TENSORS,
    layered_edits,
    layered_logits,
    layers_between,
)
from stored import tensor

TEXT, TENSORS = "task_vector.json", "task_vector.safetensors"
LAYER = {"layer.weight": [2, 3], "layer.bias": [2]}
EXTENSION = {"must_understand": False, "note": "readers may ignore this"}
OUTPUT = [3.0, -4.0, 0.0]
Header = dict[str, Any]


@dataclass
class TaskVector:
    """A task vector in memory: still free to be broken."""

    manifest: dict[str, Any]
    tensors: dict[str, np.ndarray]
    others: dict[str, bytes] = field(default_factory=dict)

    def seal(self, dtypes: dict[str, str] | None = None) -> "TaskVector":
        """Make the file of the tensors, and list it in the manifest."""
        kinds = dtypes or {}
        entries = {
            name: tensor(values, kinds.get(name, "float32"))
            for name, values in self.tensors.items()
        }
        return self.hold(tensor_file(entries))

    def hold(self, content: bytes) -> "TaskVector":
        """Take a file of tensors as it is, and list it."""
        self.others[TENSORS] = content
        told = {"size": len(content), "sha256": sha256(content)}
        self.manifest["files"] = {TENSORS: told}
        return self

    @property
    def files(self) -> dict[str, bytes]:
        """All files by name."""
        return {TEXT: compact(self.manifest), **self.others}

    def expected(self) -> dict[str, Any]:
        """Say what its numbers are, and the logits of one output."""
        found: dict[str, Any] = {
            "tensors": {n: values.tolist() for n, values in self.tensors.items()}
        }
        head = self.manifest["head"]
        if head is not None:
            output = np.resize(OUTPUT, head["dim"])
            if "layers" in head:
                logits = layered_logits(head["layers"], self.tensors, output)
            else:
                logits = self.linear(output) if "kind" in head else self.scaled(output)
            found |= {"output": output.tolist(), "logits": logits.tolist()}
        return found

    def linear(self, output: np.ndarray) -> np.ndarray:
        """Logits of a linear head."""
        weight, bias = (self.tensors[f"head/{n}"] for n in ("weight", "bias"))
        return weight.astype(float) @ output + bias

    def scaled(self, output: np.ndarray) -> np.ndarray:
        """Logits of class embeddings."""
        rows = self.tensors["head/embeddings"].astype(float)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = rows @ output / np.linalg.norm(output)
        return self.manifest["head"]["logit_scale"] * cosines


def task_vector(
    shapes: dict[str, list[int]],
    *,
    embeddings: np.ndarray | None = None,
    **members: Any,
) -> TaskVector:
    """Draft one; ``members`` replaces parts of the manifest."""
    changes = {
        f"tau/{name}": np.resize(np.arange(-3, 5) / 4, shape).astype("f4")
        for name, shape in sorted(shapes.items())
    }
    head = None
    if embeddings is not None:
        names = ["cat", "dog", "собака"][: len(embeddings)]
        head = {"classes": names, "dim": embeddings.shape[1], "logit_scale": 100.0}
        changes["head/embeddings"] = embeddings.astype("f4")
    manifest = {
        "format": "kfac-task-vector",
        "version": 1,
        "base_model": base_model(shapes),
        "output_map": named("sentence-embedding", pooling="mean", normalise=True),
        "head": head,
        "settings": {"steps": 100, "learning_rate": 1e-5},
        "metrics": {},
        "files": {},
    }
    return TaskVector(manifest | members, changes).seal()


def plain() -> TaskVector:
    """A change alone, of a function that has no name."""
    return task_vector(LAYER, output_map=None)


def with_head() -> TaskVector:
    """A change with the head that it was trained with; one row is not of length 1."""
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    return task_vector(LAYER, embeddings=rows)


def linear_head() -> TaskVector:
    """A change with a linear head; its weight is not of length 1, nor its bias zero."""
    found = plain()
    found.manifest["output_map"] = named("cls-raw")
    found.manifest["head"] = {"classes": ["cat", "dog"], "dim": 3, "kind": "linear"}
    found.tensors["head/weight"] = np.array([[1, -2, 0.5], [0, 3, -1]], "f4")
    found.tensors["head/bias"] = np.array([0.25, -4], "f4")
    return found.seal()


def layered_head(*activations: str) -> TaskVector:
    """A change with a head of layers."""
    found = plain()
    found.manifest["output_map"] = named("cls-raw")
    found.manifest["head"], tensors = layers_between(*activations)
    found.tensors |= tensors
    return found.seal()


def other_numbers() -> TaskVector:
    """Numbers at the edges of float32, a parameter without axes, minus zero."""
    found = task_vector({"scale": [], "edges": [4]})
    edges = [float(np.finfo("f4").max), 2.0**-149, -0.0, float(np.float32(-0.1))]
    found.tensors["tau/edges"] = np.array(edges, "f4")
    return found.seal()


def extensions() -> TaskVector:
    """Members and a file that may be ignored."""
    found = plain()
    found.manifest["x-example"] = found.manifest["base_model"]["x-example"] = EXTENSION
    found.others["README.md"] = b"no part of it\n"
    return found


def loose_header() -> TaskVector:
    """A header in another order than the data, with one key of metadata."""
    found = with_head()
    header, content = split(found.others[TENSORS])
    turned: Header = {"__metadata__": {"format": "pt"}}
    turned |= {name: header[name] for name in reversed(header)}
    return found.hold(with_header(turned, content))


def names() -> TaskVector:
    """Names in other scripts, and a name that looks like that of the head."""
    return task_vector(
        {"слой/вес 重み": [2], "\U0001f600": [1], "head/embeddings": [2]}
    )


def other_weights() -> TaskVector:
    """The same parameters, of a model with other values in one."""
    found = plain()
    parameters = found.manifest["base_model"]["parameters"]
    turned = dict(zip(parameters, reversed(parameters.values()), strict=True))
    for name, info in turned.items():
        parameters[name] = info | {"shape": parameters[name]["shape"]}
    return rehash(found)


def other_parameters(**base: Any) -> TaskVector:
    """Parameters of the same model that no other one has."""
    found = task_vector({"norm.weight": [2]})
    found.manifest["base_model"] |= base
    return found


def overlapping() -> TaskVector:
    """A parameter that `plain` has, too, and one that it has not."""
    return task_vector({"layer.weight": [2, 3], "norm.weight": [2]}, settings={})


def rehash(found: TaskVector) -> TaskVector:
    """Bring the hash over all parameters in line with them."""
    base = found.manifest["base_model"]
    lines = (
        f"{name} {info['sha256']}\n"
        for name, info in sorted(base["parameters"].items())
    )
    base["sha256"] = sha256("".join(lines).encode())
    return found


VALID: dict[str, Callable[[], TaskVector]] = {
    "plain": plain,
    "with-head": with_head,
    "linear-head": linear_head,
    "layered-head": lambda: layered_head("tanh"),
    "layered-head-gelu": lambda: layered_head("gelu", "silu"),
    "layered-head-others": lambda: layered_head("gelu-tanh", "relu"),
    "other-numbers": other_numbers,
    "extensions": extensions,
    "loose-header": loose_header,
    "names": names,
    "other-weights": other_weights,
    "other-parameters": other_parameters,
    "other-id": lambda: other_parameters(id="example/another"),
    "other-revision": lambda: other_parameters(revision=None),
    "overlapping": overlapping,
}

T6_1 = {"cites": ["T6.1"], "refused": "they are of two base models"}
SUMS: dict[str, dict[str, Any]] = {
    "with-itself": {"of": ["plain", "plain"]},
    "head-is-dropped": {"of": ["plain", "with-head"]},
    "disjoint": {"of": ["plain", "other-parameters"]},
    "overlapping": {"of": ["plain", "overlapping"]},
    "other-weights": {"of": ["plain", "other-weights"]} | T6_1,
    "disjoint-other-id": {"of": ["plain", "other-id"]} | T6_1,
    "disjoint-other-revision": {"of": ["plain", "other-revision"]} | T6_1,
}
"""What may be added and what may not."""


def sums() -> dict[str, dict[str, Any]]:
    """Sums with their results: parameter by parameter."""
    return {name: case | _sum(case) for name, case in SUMS.items()}


def _sum(case: dict[str, Any]) -> dict[str, Any]:
    if "refused" in case:
        return {}
    total: dict[str, np.ndarray] = {}
    for part in case["of"]:
        for name, values in VALID[part]().tensors.items():
            if name.startswith("tau/"):
                total[name] = total.get(name, 0.0) + values.astype(float)
    return {"expected": {name: values.tolist() for name, values in total.items()}}


def applications() -> dict[str, dict[str, Any]]:
    """Models to apply one to: their parameters, and what comes out or a refusal."""
    change = plain()
    model = {
        name: (np.arange(np.prod(shape)) + i).reshape(shape)
        for i, (name, shape) in enumerate(LAYER.items())
    }
    after = {n: v + change.tensors[f"tau/{n}"] / 2 for n, v in model.items()}
    other = {n: v.copy() for n, v in model.items()}
    other["layer.bias"][1] += 1
    told = {"vector": "plain", "alpha": 0.5}
    refusal = {"cites": ["T6.2"], "refused": "a parameter has other values"}
    return {
        "its-model": told | {"model": lists(model), "expected": lists(after)},
        "another-model": told | {"model": lists(other)} | refusal,
    }


def lists(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write numbers as JSON."""
    return {name: array.astype(float).tolist() for name, array in values.items()}


def broken(level: str, name: str, rule: str, *edits: Any) -> Case:
    """Break the manifest."""
    found = with_head()
    for edit in edits:
        edit(found.manifest)
    return Case(name, level, rule, found.files)


def changed(name: str, rule: str, edit: Callable[[TaskVector], object]) -> Case:
    """Break the tensors; size and hash in the manifest are right."""
    found = with_head()
    edit(found)
    return Case(name, "files", rule, found.files)


def manifest_cases() -> Iterator[Case]:
    """Manifests that are wrong."""
    members = ("base_model", "output_map", "head", "settings", "metrics", "files")
    for member in ("format", "version", *members):
        rule = f"T3.1 {member} is there"
        yield broken("schema", f"without-{member}", rule, drop(member))
        rule = f"T3.1 {member} is of its type"
        yield broken("schema", f"type-of-{member}", rule, put(member, [1]))
    for name, path, value in (
        ("format", "format", "kfac-artifact"),
        ("version", "version", 2),
        ("dim-zero", "head/dim", 0),
        ("dim-fraction", "head/dim", 2.5),
        ("dim-true", "head/dim", True),
        ("negative-scale", "head/logit_scale", -1.0),
        ("scale-null", "head/logit_scale", None),
        ("class-no-name", "head/classes", ["cat", ""]),
        ("classes-object", "head/classes", {"cat": 0, "dog": 1}),
        ("output-map-name", "output_map", "sentence-embedding"),
    ):
        rule = f"T3.1 {path.replace('/', '.')} is of its type"
        yield broken("schema", f"wrong-{name}", rule, put(path, value))
    for place in ("", "head/", "output_map/", "base_model/", "files/"):
        rule = "T3.3 an unknown member is refused"
        where = place.strip("/") or "top"
        unknown = put(f"{place}x-new", {"note": "to be understood"})
        yield broken("schema", f"unknown-in-{where}", rule, unknown)
    for place in ("head", "output_map", "files"):
        rule = "T3.3 nothing may be ignored here"
        unknown = put(f"{place}/x-new", EXTENSION)
        yield broken("schema", f"ignorable-in-{place}", rule, unknown)
    rule = "T3.3 must_understand is the JSON value false"
    zero = put("x-new", {"must_understand": 0})
    yield broken("schema", "must-understand-zero", rule, zero)
    rule = "R7.2.1 sha256 is that of the lines of all parameters"
    yield broken("manifest", "base-hash", rule, put("base_model/sha256", "0" * 64))


def head_cases() -> Iterator[Case]:
    """Heads that are wrong, and a change of nothing."""
    for member, rule in (
        ("classes", "T3.1 classes is there"),
        ("dim", "T3.1 dim is there"),
        ("logit_scale", "T5.2 one of the two is there"),
    ):
        yield broken("schema", f"head-without-{member}", rule, drop(f"head/{member}"))
    rows = np.eye(2)
    rule = "T3.1 one parameter moved at least"
    files = task_vector({}, embeddings=rows).files
    yield Case("no-parameters", "schema", rule, files)
    rule = "T5.1 there are two classes"
    files = task_vector(LAYER, embeddings=rows[:1]).files
    yield Case("one-class", "schema", rule, files)
    rule = "T5.1 classes are different"
    yield broken("schema", "class-twice", rule, put("head/classes", ["cat", "cat"]))


def linear_cases() -> Iterator[Case]:
    """Linear heads that are wrong."""
    for name, rule, edit in (
        ("linear-other-kind", "T5.2 kind is linear", put("head/kind", "affine")),
        ("linear-null", "T5.2 kind is no null", put("head/kind", None)),
        ("linear-with-scale", "T5.2 not both", put("head/logit_scale", 1.0)),
    ):
        found = linear_head()
        edit(found.manifest)
        yield Case(name, "schema", rule, found.files)
    for name, rule, key, value in (
        ("linear-without-bias", "T4.2 a linear head has a bias", "bias", None),
        ("linear-without-weight", "T4.2 a linear head has a weight", "weight", None),
        ("linear-wide", "T4.2 its weight has dim columns", "weight", np.ones((2, 4))),
        ("linear-tall", "T4.2 its bias has an entry per class", "bias", np.ones(3)),
    ):
        found = linear_head()
        found.tensors.pop(f"head/{key}")
        if value is not None:
            found.tensors[f"head/{key}"] = value.astype("f4")
        yield Case(name, "files", rule, found.seal().files)


def layered_cases() -> Iterator[Case]:
    """Heads of layers that are wrong."""
    for name, rule, edit in layered_edits():
        found = layered_head("tanh")
        edit(found.manifest)
        yield Case(f"layers-{name}", "schema", rule, found.files)
    for name, rule, last, values in (
        ("wide", "T5.3 an output per class", [{"kind": "linear", "outputs": 3}], 3),
        ("last", "T5.3 the last is linear", [], 0),
    ):
        found = layered_head("tanh")
        layers = found.manifest["head"]["layers"]
        found.manifest["head"]["layers"] = [*layers[:-1], *last]
        for key, shape in (("weight", (values, 4)), ("bias", (values,))):
            del found.tensors[f"head/3/{key}"]
            if last:
                found.tensors[f"head/3/{key}"] = np.ones(shape, "f4")
        yield Case(f"layers-{name}", "manifest", rule, found.seal().files)
    for name, rule, key, value in LAYERED_TENSORS:
        found = layered_head("tanh")
        found.tensors.pop(f"head/{key}")
        if value is not None:
            found.tensors[f"head/{key}"] = value.astype("f4")
        yield Case(f"layers-{name}", "files", rule, found.seal().files)


def text_cases() -> Iterator[Case]:
    """Manifests that are no JSON as section 6 of ``format.md`` wants it."""
    for name, rule, old, new in (
        ("no-json", "R6.1 the manifest is JSON", b"{", b"<"),
        ("duplicate-key", "R6.4 no key is twice", b"{", b'{"version":1,'),
        ("scale-infinite", "R6.5 numbers are finite", b"100.0", b"1e999"),
    ):
        found = with_head()
        files = found.files
        files[TEXT] = files[TEXT].replace(old, new, 1)
        yield Case(name, "json", rule, files)


def file_cases() -> Iterator[Case]:
    """Files that do not fit the manifest."""
    for name, rule, edit in (
        ("tensor-missing", "T4.1 every parameter has its tensor", _without_bias),
        ("shape", "T4.1 a tensor has the shape of its parameter", _reshaped),
        ("head-missing", "T4.2 a head has embeddings", _without_embeddings),
        ("head-shape", "T4.2 embeddings have a row for each class", _wide),
        ("head-unannounced", "T4.3 without a head there are no embeddings", _headless),
        ("extra-tensor", "T4.3 there is no other tensor", _with_another),
        ("float16", "T4.4 all tensors are F32", _half),
        ("hole", "R8.7 the tensors fill the file", _with_remainder),
    ):
        yield changed(name, rule, edit)
    files = with_head().files
    content = files.pop(TENSORS)
    yield Case("file-missing", "files", "T4.7 R10.1 the file is there", files)
    size = put(f"files/{TENSORS}/size", len(content) + 8)
    yield broken("files", "size", "T4.7 R10.1 the file has its size", size)
    flipped = bytearray(content)
    flipped[-1] ^= 0x80  # the sign of a number
    damaged = files | {TENSORS: bytes(flipped)}
    yield Case("hash", "hash", "T4.7 R10.2 the file has its sha256", damaged)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        found = with_head()
        found.tensors["tau/layer.bias"][1] = value
        rule = "T4.5 T4.7 all values are finite"
        yield Case(name, "values", rule, found.seal().files)
    found = with_head()
    found.tensors["head/embeddings"][1, 1] = np.nan
    rule = "T4.5 T4.7 all values are finite, those of the head too"
    yield Case("nan-in-head", "values", rule, found.seal().files)


def _without_bias(found: TaskVector) -> None:
    del found.tensors["tau/layer.bias"]
    found.seal()


def _without_embeddings(found: TaskVector) -> None:
    del found.tensors["head/embeddings"]
    found.seal()


def _reshaped(found: TaskVector) -> None:
    found.tensors["tau/layer.weight"] = found.tensors["tau/layer.weight"].T.copy()
    found.seal()


def _wide(found: TaskVector) -> None:
    found.tensors["head/embeddings"] = found.tensors["head/embeddings"].T.copy()
    found.seal()


def _headless(found: TaskVector) -> None:
    found.manifest["head"] = None


def _with_another(found: TaskVector) -> None:
    found.tensors["tau/norm.weight"] = np.zeros(2, "f4")
    found.seal()


def _half(found: TaskVector) -> None:
    found.seal({"tau/layer.bias": "float16"})


def _with_remainder(found: TaskVector) -> None:
    found.hold(found.others[TENSORS] + b"\0" * 4)


def task_vector_cases() -> Iterator[Case]:
    """All invalid ones."""
    yield from text_cases()
    yield from manifest_cases()
    yield from head_cases()
    yield from linear_cases()
    yield from layered_cases()
    yield from file_cases()
