"""The invalid vectors that the JSON Schema refuses."""

from collections.abc import Iterator

from breaking import Case, Edit, drop, edited, put

IGNORE = {"must_understand": False}
ZEROS = "0" * 64
NAMED = {"name": "x", "configuration": {}}

SCHEMA: list[tuple[str, str, Edit]] = [
    ("wrong-format-name", "format is kfac-artifact", put("format", "gguf")),
    ("version-2", "version is 1", put("version", 2)),
    ("version-true", "a whole number is neither true nor false", put("version", True)),
    ("version-string", "version is a number", put("version", "1")),
    ("unknown-field", "an unknown field is an error", put("extra", 1)),
    (
        "unknown-field-must-understand-true",
        "only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": True}),
    ),
    (
        "unknown-field-must-understand-zero",
        "only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": 0}),
    ),
    ("missing-field", "every field is there", drop("output_map")),
    (
        "missing-nullable-field",
        "a field may be null, not absent",
        drop("sources/0/digest"),
    ),
    ("null-field", "only some fields may be null", put("excluded", None)),
    ("wrong-type", "tasks is a whole number", put("tasks", "1")),
    ("object-for-array", "sources is an array", put("sources", {})),
    ("draws-true", "true is not a number", put("sources/0/cotangents/draws", True)),
    ("negative-size", "size is at least 1", put("sources/0/data/size", -64)),
    ("zero-examples", "examples is at least 1", put("sources/0/data/examples", 0)),
    (
        "huge-seed",
        "a whole number is below 2**53",
        put("sources/0/cotangents/seed", 2**53),
    ),
    ("no-sources", "there is a source", put("sources", [])),
    (
        "unknown-cotangents",
        "cotangents are orthogonal, mc or exact",
        put("sources/0/cotangents/name", "sum"),
    ),
    ("mc-without-draws", "mc has draws", put("sources/0/cotangents/draws", None)),
    (
        "exact-with-draws",
        "exact has no draws",
        put("sources/0/cotangents/name", "exact"),
    ),
    (
        "bad-digest",
        "a digest has 64 digits 0-9a-f",
        put("sources/0/digest", "sha256:" + "F" * 64),
    ),
    (
        "digest-without-algorithm",
        "a digest says its algorithm",
        put("sources/0/digest", ZEROS),
    ),
    (
        "digest-of-another-algorithm",
        "a digest is a sha256",
        put("sources/0/digest", "blake3:" + ZEROS),
    ),
    ("bad-fingerprint", "so is a fingerprint", put("sources/0/data/fingerprint", "00")),
    (
        "digest-with-newline",
        "a digest is 64 digits 0-9a-f",
        put("sources/0/digest", "sha256:" + ZEROS + "\n"),
    ),
    ("unknown-estimator", "the estimator is known", put("estimator/name", "guess")),
    (
        "estimator-without-configuration",
        "the estimator has a configuration",
        put("estimator", {"name": "kfac"}),
    ),
    (
        "unknown-block-kind",
        "kind is kronecker or gramian",
        put("blocks/norm/kind", "lie"),
    ),
    ("unknown-layout", "layout is rows or columns", put("blocks/layer/layout", "C")),
    ("part-null", "a part is a number or absent", put("blocks/layer/part", None)),
    ("part-negative", "a part is at least 0", put("blocks/layer/part", -1)),
    ("part-of-gramian", "a Gramian block has no part", put("blocks/norm/part", 0)),
    ("no-terms", "a block has a term", put("blocks/norm/terms", [])),
    ("term-without-B", "a term has A and B", drop("blocks/layer/terms/0/B")),
    (
        "gramian-term-in-kronecker",
        "a term has A and B",
        put("blocks/layer/terms", [{"G": "in"}]),
    ),
    ("extra-field-in-term", "a term has A and B only", put("blocks/norm/terms/0/w", 1)),
    ("no-blocks", "there is a block", put("blocks", {})),
    ("unknown-structure", "the structure is known", put("factors/in/structure", NAMED)),
    ("unknown-storage", "the storage is known", put("factors/in/storage", NAMED)),
    (
        "configured-structure",
        "dense has no configuration",
        put("factors/in/structure/configuration", {"blocks": 2}),
    ),
    (
        "configured-float32",
        "float32 has no configuration",
        put("factors/norm/storage/configuration", {"dtype": "float32"}),
    ),
    (
        "symmetric-without-dtype",
        "symmetric has a dtype",
        put("factors/in/storage/configuration", {}),
    ),
    (
        "symmetric-of-symmetric",
        "the dtype of symmetric is a plain one",
        put("factors/in/storage/configuration/dtype", "symmetric"),
    ),
    (
        "symmetric-diagonal",
        "only a matrix can be stored as symmetric",
        put("factors/in/structure/name", "diagonal"),
    ),
    (
        "storage-as-string",
        "a storage is an object",
        put("factors/norm/storage", "float32"),
    ),
    (
        "shard-of-four-digits",
        "the numbers of shards have five digits",
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
        "there is one file, or there are shards",
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
        "there is a parameter",
        put("base_model/parameters", {}),
    ),
    (
        "merge-error-of-one-number",
        "an error has both numbers",
        put("merge_errors/norm", {"relative": 0.5}),
    ),
    (
        "merge-error-ignored-field",
        "an error has two numbers only",
        put("merge_errors/norm", {"relative": 0, "bound": 0, "x-extra": IGNORE}),
    ),
    (
        "unknown-field-must-understand-null",
        "only must_understand: false lets a field be ignored",
        put("extra", {"must_understand": None}),
    ),
    (
        "unknown-field-must-understand-string",
        "only must_understand: false lets a field be ignored",
        put("base_model/extra", {"must_understand": "false"}),
    ),
    (
        "unknown-field-of-a-source",
        "only must_understand: false lets a field be ignored",
        put("sources/0/extra", {}),
    ),
    (
        "unknown-field-of-data",
        "only must_understand: false lets a field be ignored",
        put("sources/0/data/extra", {"must_understand": True}),
    ),
    ("zero-dim", "dim is at least 1", put("factors/in/dim", 0)),
    ("huge-dim", "dim is below 2**31", put("factors/in/dim", 2**31)),
    (
        "zero-axis",
        "every axis is at least 1",
        put("base_model/parameters/norm.weight/shape", [0]),
    ),
    (
        "too-many-axes",
        "a shape has 8 axes at most",
        put("base_model/parameters/norm.weight/shape", [2, *[1] * 8]),
    ),
    ("empty-name", "a name has a character", put("base_model/id", "")),
    ("long-name", "a name has 512 characters at most", put("base_model/id", "x" * 513)),
    ("name-with-control", "a name has no control", put("base_model/id", "a\u001b[2Jb")),
    ("name-with-newline", "a name has no line break", put("base_model/id", "tiny\n")),
    (
        "name-that-turns",
        "a name does not change the direction of writing",
        put("sources/0/data/id", "a\u202eb"),
    ),
    (
        "long-astral-name",
        "a name has 512 code points at most",
        put("base_model/id", "\U0001f600" * 513),
    ),
    ("name-with-delete", "a name has no control", put("base_model/id", "a\u007fb")),
    ("name-with-C1-control", "a name has no control", put("base_model/id", "a\u0085b")),
    (
        "name-with-zero-width-space",
        "a name has nothing invisible",
        put("base_model/id", "a\u200bb"),
    ),
    (
        "name-with-word-joiner",
        "a name has nothing invisible",
        put("base_model/id", "a\u2060b"),
    ),
    (
        "name-with-byte-order-mark",
        "a name has nothing invisible",
        put("base_model/id", "a\ufeffb"),
    ),
    (
        "name-with-noncharacter",
        "a name has nothing from U+FFF0 to U+FFFF",
        put("base_model/id", "a\ufff9b"),
    ),
    (
        "revision-with-control",
        "a revision is a name",
        put("base_model/revision", "a\u0000"),
    ),
    (
        "negative-error",
        "an error is not negative",
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
        "a tensor file has one of the names allowed",
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
        "a tensor file has one of the names allowed",
        lambda manifest: manifest.update(
            files={"/etc/passwd": manifest["files"]["factors.safetensors"]}
        ),
    ),
    ("no-files", "there is a tensor file", put("files", {})),
    (
        "index-alone",
        "an index has shards",
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
        "an index has two shards or more",
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
        "a hash is 64 digits 0-9a-f",
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
        rule = "decoding has no optional fields"
        yield edited("schema", name, rule, put(f"{path}/x-extra", IGNORE))
