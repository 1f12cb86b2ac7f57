"""The invalid vectors whose manifest is wrong in a way no JSON Schema can say."""

from collections.abc import Iterator

from breaking import STACK, Case, Edit, drop, edited, put, rewritten, stacked
from draft import gramian, kronecker

ZEROS = "0" * 64
JSON = [
    ("not-json", "it is not JSON", lambda text: text[:-2]),
    ("trailing-data", "something follows the object", lambda text: text + "{}"),
    ("byte-order-mark", "it begins with U+FEFF", lambda text: "\ufeff" + text),
    ("not-utf-8", "it is not UTF-8", lambda t: t.encode().replace(b"tiny", b"t\xffny")),
    (
        "duplicate-key",
        "a key occurs twice in one object",
        lambda text: text.replace('"version":1,', '"version":1,"version":1,'),
    ),
    (
        "duplicate-key-escaped",
        "a key occurs twice, once written with an escape",
        lambda text: text.replace('"version":1,', '"version":1,"versio\\u006e":1,'),
    ),
    (
        "not-a-number",
        "NaN is no JSON",
        lambda text: text.replace('"max_length":128', '"max_length":NaN'),
    ),
    (
        "infinite-number",
        "a number is beyond float64",
        lambda text: text.replace('"max_length":128', '"max_length":1e999'),
    ),
    (
        "huge-whole-number",
        "a number is beyond float64",
        lambda t: t.replace('"max_length":128', '"max_length":1' + "0" * 400),
    ),
    (
        "lone-surrogate",
        "a string has half of a surrogate pair",
        lambda text: text.replace('"pooling":"mean"', '"pooling":"\\ud800"'),
    ),
    (
        "nested-too-deep",
        "a value is inside more than 32 arrays and objects",
        lambda t: t.replace('"max_length":128', f'"a":{"[" * 40}1{"]" * 40}'),
    ),
    (
        "depth-bomb",
        "a value is inside more than 32 arrays and objects",
        lambda t: t.replace('"max_length":128', f'"a":{"[" * 3000}{"]" * 3000}'),
    ),
]

MANIFEST: list[tuple[str, str, Edit]] = [
    ("fraction-for-whole", "a whole number has no fraction", put("tasks", 1.0)),
    ("sources-not-tasks", "tasks is the number of sources", put("tasks", 2)),
    ("size-not-sum", "size is the sum over the sources", put("size", 65)),
    (
        "examples-above-size",
        "examples is size at most",
        put("sources/0/data/examples", 65),
    ),
    (
        "base-hash-mismatch",
        "the hash of the base model",
        put("base_model/sha256", ZEROS),
    ),
    (
        "parameter-hash-mismatch",
        "the hash of the base model",
        put("base_model/parameters/norm.weight/sha256", ZEROS),
    ),
    (
        "parameter-unknown",
        "a block covers parameters of the base model",
        put("blocks/norm/parameter", "other.weight"),
    ),
    ("parameter-uncovered", "every parameter is in a block", drop("blocks/norm")),
    (
        "parameter-in-two-blocks",
        "a parameter is in one block",
        put("blocks/again", gramian("norm.weight", "norm")),
    ),
    (
        "bias-is-weight",
        "a parameter is once in a block",
        put("blocks/layer/bias", "layer.weight"),
    ),
    (
        "covered-and-excluded",
        "a parameter is covered or left out",
        put("excluded", ["norm.weight"]),
    ),
    (
        "covered-and-uncovered",
        "a parameter is covered or left out",
        put("uncovered", {"norm.weight": "a reason"}),
    ),
    (
        "error-of-no-block",
        "an error is of a block",
        put(
            "merge_errors/other",
            {
                "relative": 0,
                "bound": 0,
            },
        ),
    ),
    (
        "weight-of-one-axis",
        "the weight of a Kronecker block has two axes",
        put("blocks/norm", kronecker("norm.weight", ("norm", "out"))),
    ),
    (
        "bias-of-another-size",
        "the bias has the shape [d_out]",
        put("blocks/layer/layout", "columns"),
    ),
    ("dim-mismatch", "a factor has the size of its block", put("factors/in/dim", 3)),
    (
        "swapped-factors",
        "A is of the inputs, B of the outputs",
        put("blocks/layer/terms", [{"A": "out", "B": "in"}]),
    ),
    (
        "gramian-dim-mismatch",
        "a factor has the size of its block",
        put("blocks/norm/terms", [{"G": "in"}]),
    ),
    (
        "unused-factor",
        "every factor is used",
        lambda m: m["factors"].update(spare=m["factors"]["norm"]),
    ),
    ("missing-factor", "a factor of a block exists", drop("factors/norm")),
    (
        "shards-do-not-count",
        "the shards are numbered from 1 to their count",
        lambda manifest: manifest.update(
            files={
                name: {"size": 8, "sha256": ZEROS}
                for name in (
                    "factors-00001-of-00003.safetensors",
                    "factors-00002-of-00003.safetensors",
                    "factors.safetensors.index.json",
                )
            }
        ),
    ),
]


STACKED: list[tuple[str, str, Edit]] = [
    ("part-beyond", "a part is below the first axis", put("blocks/part.1/part", 2)),
    ("part-twice", "a part is in one block", put("blocks/part.1/part", 0)),
    ("part-missing", "every part is in a block", drop("blocks/part.1")),
    (
        "part-beside-whole",
        "a parameter is in one block whole, or in parts",
        drop("blocks/part.1/part"),
    ),
    (
        "part-of-two-axes",
        "the part of a weight has two axes",
        lambda m: [
            m["blocks"][f"part.{i}"].update(weight="stacked.bias", bias=STACK)
            for i in range(2)
        ],
    ),
    (
        "part-of-a-bias-that-is-not-stacked",
        "the part of a bias has one axis",
        lambda m: [
            *(m["blocks"][f"part.{i}"].update(bias="norm.weight") for i in range(2)),
            m["blocks"].update(norm=gramian("stacked.bias", "in")),
            m["factors"].pop("norm"),
        ],
    ),
    (
        "part-with-the-size-of-the-whole",
        "a factor has the size of the part",
        put("blocks/part.0/terms", [{"A": "in", "B": "in"}]),
    ),
]


def manifest_cases() -> Iterator[Case]:
    """All artifacts whose manifest is no JSON, or does not fit together."""
    for name, rule, rewrite in JSON:
        yield rewritten(name, rule, rewrite)
    for name, rule, edit in MANIFEST:
        yield edited("manifest", name, rule, edit)
    for name, rule, edit in STACKED:
        yield edited("manifest", name, rule, edit, make=stacked)
