"""The invalid vectors that the JSON Schema refuses."""

from collections.abc import Iterator

from breaking import Case, Edit, drop, edited, put

IGNORE = {"must_understand": False}
ZEROS = "0" * 64
NAMED = {"name": "x", "configuration": {}}

SCHEMA: list[tuple[str, str, Edit]] = [
    ("wrong-format-name", "R12.1 format is kfac-artifact", put("format", "gguf")),
    ("version-2", "R12.1 version is 1", put("version", 2)),
    (
        "version-true",
        "R6.8 a whole number is neither true nor false",
        put("version", True),
    ),
    ("version-string", "R12.1 version is a number", put("version", "1")),
    ("unknown-field", "R12.3 an unknown field is an error", put("extra", 1)),
    (
        "unknown-field-must-understand-true",
        "R12.3 only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": True}),
    ),
    (
        "unknown-field-must-understand-zero",
        "R12.3 only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": 0}),
    ),
    ("missing-field", "R7.1 every field is there", drop("output_map")),
    (
        "missing-nullable-field",
        "R7.1 a field may be null, not absent",
        drop("sources/0/digest"),
    ),
    ("null-field", "R7.1 only some fields may be null", put("excluded", None)),
    ("wrong-type", "R7.1 tasks is a whole number", put("tasks", "1")),
    ("object-for-array", "R7.1 sources is an array", put("sources", {})),
    (
        "draws-true",
        "R6.8 true is not a number",
        put("sources/0/cotangents/draws", True),
    ),
    ("negative-size", "R7.1 size is at least 1", put("sources/0/data/size", -64)),
    ("zero-examples", "R7.1 examples is at least 1", put("sources/0/data/examples", 0)),
    (
        "huge-seed",
        "R6.8 a whole number is below 2**53",
        put("sources/0/cotangents/seed", 2**53),
    ),
    ("no-sources", "R7.1 there is a source", put("sources", [])),
    (
        "unknown-cotangents",
        "R12.2 cotangents are of a known name",
        put("sources/0/cotangents/name", "sum"),
    ),
    ("mc-without-draws", "R7.1 mc has draws", put("sources/0/cotangents/draws", None)),
    (
        "labels-without-draws",
        "R7.1 labels have draws",
        put("sources/0/cotangents", {"name": "labels", "draws": None, "seed": 0}),
    ),
    (
        "exact-with-draws",
        "R7.1 exact has no draws",
        put("sources/0/cotangents/name", "exact"),
    ),
    (
        "unknown-with-draws",
        "R7.1 unknown cotangents have no draws",
        put("sources/0/cotangents/name", "unknown"),
    ),
    (
        "bad-digest",
        "R7.1 a digest has 64 digits 0-9a-f",
        put("sources/0/digest", "sha256:" + "F" * 64),
    ),
    (
        "digest-without-algorithm",
        "R7.1 a digest says its algorithm",
        put("sources/0/digest", ZEROS),
    ),
    (
        "digest-of-another-algorithm",
        "R7.1 a digest is a sha256",
        put("sources/0/digest", "blake3:" + ZEROS),
    ),
    (
        "bad-fingerprint",
        "R7.1 so is a fingerprint",
        put("sources/0/data/fingerprint", "00"),
    ),
    (
        "digest-with-newline",
        "R7.1 a digest is 64 digits 0-9a-f",
        put("sources/0/digest", "sha256:" + ZEROS + "\n"),
    ),
    (
        "unknown-estimator",
        "R12.2 the estimator is known",
        put("estimator/name", "guess"),
    ),
    (
        "estimator-without-configuration",
        "R7.1 the estimator has a configuration",
        put("estimator", {"name": "kfac"}),
    ),
    (
        "unknown-block-kind",
        "R12.2 kind is kronecker or gramian",
        put("blocks/norm/kind", "lie"),
    ),
    (
        "unknown-layout",
        "R12.2 layout is rows or columns",
        put("blocks/layer/layout", "C"),
    ),
    ("part-null", "R7.1 a part is a number or absent", put("blocks/layer/part", None)),
    ("part-negative", "R7.1 a part is at least 0", put("blocks/layer/part", -1)),
    (
        "part-of-gramian",
        "R12.5 a Gramian block has no part",
        put("blocks/norm/part", 0),
    ),
    ("no-terms", "R7.1 a block has a term", put("blocks/norm/terms", [])),
    ("term-without-B", "R7.1 a term has A and B", drop("blocks/layer/terms/0/B")),
    (
        "gramian-term-in-kronecker",
        "R7.1 a term has A and B",
        put("blocks/layer/terms", [{"G": "in"}]),
    ),
    (
        "extra-field-in-term",
        "R12.5 a term has A and B only",
        put("blocks/norm/terms/0/w", 1),
    ),
    ("no-blocks", "R7.1 there is a block", put("blocks", {})),
    (
        "unknown-structure",
        "R12.2 the structure is known",
        put("factors/in/structure", NAMED),
    ),
    ("unknown-storage", "R12.2 the storage is known", put("factors/in/storage", NAMED)),
    (
        "configured-structure",
        "R7.6.2 dense has no configuration",
        put("factors/in/structure/configuration", {"blocks": 2}),
    ),
    (
        "configured-float32",
        "R7.6.2 float32 has no configuration",
        put("factors/norm/storage/configuration", {"dtype": "float32"}),
    ),
    (
        "symmetric-without-dtype",
        "R7.6.2 symmetric has a dtype",
        put("factors/in/storage/configuration", {}),
    ),
    (
        "symmetric-of-symmetric",
        "R7.6.2 the dtype of symmetric is a plain one",
        put("factors/in/storage/configuration/dtype", "symmetric"),
    ),
    (
        "symmetric-diagonal",
        "R7.6.1 only a matrix can be stored as symmetric",
        put("factors/in/structure/name", "diagonal"),
    ),
    (
        "storage-as-string",
        "R7.1 a storage is an object",
        put("factors/norm/storage", "float32"),
    ),
    (
        "shard-of-four-digits",
        "R7.7.1 the numbers of shards have five digits",
        lambda manifest: manifest.update(
            files={
                name: {"size": 8, "sha256": ZEROS}
                for name in (
                    "factors-0001-of-0002.safetensors",
                    "factors-0002-of-0002.safetensors",
                    "factors.safetensors.index.json",
                )
            }
        ),
    ),
    (
        "single-file-and-shards",
        "R7.7.1 there is one file, or there are shards",
        lambda manifest: manifest["files"].update(
            {
                name: {"size": 8, "sha256": ZEROS}
                for name in (
                    "factors-00001-of-00002.safetensors",
                    "factors-00002-of-00002.safetensors",
                    "factors.safetensors.index.json",
                )
            }
        ),
    ),
    (
        "no-parameters",
        "R7.1 there is a parameter",
        put("base_model/parameters", {}),
    ),
    (
        "merge-error-of-one-number",
        "R7.1 an error has both numbers",
        put("merge_errors/norm", {"relative": 0.5}),
    ),
    (
        "merge-error-ignored-field",
        "R12.5 an error has two numbers only",
        put("merge_errors/norm", {"relative": 0, "bound": 0, "x-extra": IGNORE}),
    ),
    (
        "unknown-field-must-understand-null",
        "R12.3 only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": None}),
    ),
    (
        "unknown-field-must-understand-string",
        "R12.3 only must_understand: false lets a field be ignored",
        put("base_model/extra", {"must_understand": "false"}),
    ),
    (
        "unknown-field-of-a-source",
        "R12.3 only must_understand: false lets a field be ignored",
        put("sources/0/extra", {}),
    ),
    (
        "unknown-field-of-data",
        "R12.3 only must_understand: false lets a field be ignored",
        put("sources/0/data/extra", {"must_understand": True}),
    ),
    ("zero-dim", "R7.1 dim is at least 1", put("factors/in/dim", 0)),
    ("huge-dim", "R7.1 dim is below 2**31", put("factors/in/dim", 2**31)),
    (
        "zero-axis",
        "R7.1 every axis is at least 1",
        put("base_model/parameters/norm.weight/shape", [0]),
    ),
    (
        "too-many-axes",
        "R7.1 a shape has 8 axes at most",
        put("base_model/parameters/norm.weight/shape", [2, *[1] * 8]),
    ),
    ("empty-name", "R6.9 a name has a character", put("base_model/id", "")),
    (
        "long-name",
        "R6.9 a name has 512 characters at most",
        put("base_model/id", "x" * 513),
    ),
    (
        "name-with-control",
        "R6.9 a name has no control",
        put("base_model/id", "a\u001b[2Jb"),
    ),
    (
        "name-with-newline",
        "R6.9 a name has no line break",
        put("base_model/id", "tiny\n"),
    ),
    (
        "name-that-turns",
        "R6.9 a name does not change the direction of writing",
        put("sources/0/data/id", "a\u202eb"),
    ),
    (
        "long-astral-name",
        "R6.9 a name has 512 code points at most",
        put("base_model/id", "\U0001f600" * 513),
    ),
    (
        "name-with-delete",
        "R6.9 a name has no control",
        put("base_model/id", "a\u007fb"),
    ),
    (
        "name-with-C1-control",
        "R6.9 a name has no control",
        put("base_model/id", "a\u0085b"),
    ),
    (
        "name-with-zero-width-space",
        "R6.9 a name has nothing invisible",
        put("base_model/id", "a\u200bb"),
    ),
    (
        "name-with-word-joiner",
        "R6.9 a name has nothing invisible",
        put("base_model/id", "a\u2060b"),
    ),
    (
        "name-with-byte-order-mark",
        "R6.9 a name has nothing invisible",
        put("base_model/id", "a\ufeffb"),
    ),
    (
        "name-with-noncharacter",
        "R6.9 a name has nothing from U+FFF0 to U+FFFF",
        put("base_model/id", "a\ufff9b"),
    ),
    (
        "revision-with-control",
        "R6.9 a revision is a name",
        put("base_model/revision", "a\u0000"),
    ),
    (
        "negative-error",
        "R7.1 an error is not negative",
        put(
            "merge_errors/norm",
            {
                "relative": -1e-9,
                "bound": 1.0,
            },
        ),
    ),
    (
        "path-traversal",
        "R7.7.1 R13.5 a tensor file has one of the names allowed",
        lambda manifest: manifest.update(
            files={
                # it is there, for a reader that joins paths blindly
                "../path-traversal/factors.safetensors": manifest["files"][
                    "factors.safetensors"
                ]
            }
        ),
    ),
    (
        "absolute-path",
        "R7.7.1 R13.5 a tensor file has one of the names allowed",
        lambda manifest: manifest.update(
            files={"/etc/passwd": manifest["files"]["factors.safetensors"]}
        ),
    ),
    ("no-files", "R7.7.1 there is a tensor file", put("files", {})),
    (
        "index-alone",
        "R7.7.1 an index has shards",
        lambda manifest: manifest.update(
            files={
                "factors.safetensors.index.json": manifest["files"][
                    "factors.safetensors"
                ]
            }
        ),
    ),
    (
        "one-shard",
        "R7.7.1 an index has two shards or more",
        lambda manifest: manifest.update(
            files={
                name: {"size": 8, "sha256": ZEROS}
                for name in (
                    "factors-00001-of-00001.safetensors",
                    "factors.safetensors.index.json",
                )
            }
        ),
    ),
    (
        "bad-file-hash",
        "R7.1 a hash is 64 digits 0-9a-f",
        put("files/factors.safetensors/sha256", "0"),
    ),
]
FORBIDDEN = [
    "output_map",
    "estimator",
    "base_model/parameters/norm.weight",
    "sources/0/cotangents",
    "sources/0/data/preprocessing",
    "blocks/layer",
    "blocks/norm",
    "blocks/layer/terms/0",
    "factors/in",
    "factors/in/structure",
    "factors/in/storage",
    "factors/in/storage/configuration",
    "files/factors.safetensors",
]
"""Where even ``must_understand: false`` is refused."""


def schema_cases() -> Iterator[Case]:
    """All artifacts whose manifest the schema refuses."""
    for name, rule, edit in SCHEMA:
        yield edited("schema", name, rule, edit)
    for path in FORBIDDEN:
        name = "must-understand-in-" + path.replace("/", "-").replace(".", "-")
        rule = "R12.5 decoding has no optional fields"
        yield edited("schema", name, rule, put(f"{path}/x-extra", IGNORE))
