"""The invalid vectors whose manifest is right and whose tensor files are not."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from breaking import Case, files_of, whole
from draft import INDEX, SINGLE, compact, dump, split, with_header

SHARDS = [["in", "out"], ["norm"]]
Header = dict[str, Any]


def changed(name: str, rule: str, change: Callable[[bytes], bytes]) -> Case:
    """Change the tensor file; size and hash in the manifest are those of the change."""
    draft = whole()
    draft.files[SINGLE] = change(draft.files[SINGLE])
    return Case(name, "files", rule, files_of(draft.relist()))


def header(edit: Callable[[Header], object]) -> Callable[[bytes], bytes]:
    """Change the header of the tensor file."""

    def change(file: bytes) -> bytes:
        found, content = split(file)
        edit(found)
        return with_header(found, content)

    return change


def text(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Change the text of the header."""

    def change(file: bytes) -> bytes:
        (length,) = struct.unpack("<Q", file[:8])
        found = file[8 : 8 + length].rstrip()
        if old not in found:
            raise ValueError(old)
        return with_header(found.replace(old, new, 1), file[8 + length :])

    return change


def length(value: int) -> Callable[[bytes], bytes]:
    """Change the length of the header."""
    return lambda file: struct.pack("<Q", value) + file[8:]


def shift(offset: int) -> Callable[[Header], None]:
    """Move the last tensor."""

    def edit(found: Header) -> None:
        offsets = found["norm/matrix"]["data_offsets"]
        found["norm/matrix"]["data_offsets"] = [o + offset for o in offsets]

    return edit


def hole(file: bytes) -> bytes:
    """Leave 8 bytes unused before the last tensor."""
    found, content = split(file)
    start = found["norm/matrix"]["data_offsets"][0]
    shift(8)(found)
    return with_header(found, content[:start] + b"\0" * 8 + content[start:])


def longer(file: bytes) -> bytes:
    """Give the last tensor four bytes more than its shape needs."""
    found, content = split(file)
    found["norm/matrix"]["data_offsets"][1] += 4
    return with_header(found, content + b"\0" * 4)


def without_last(file: bytes) -> bytes:
    """Leave the last tensor out, with its bytes."""
    found, content = split(file)
    start, _ = found.pop("norm/matrix")["data_offsets"]
    return with_header(found, content[:start])


def padded(padding: bytes) -> Callable[[bytes], bytes]:
    """Put other white space after the header."""

    def change(file: bytes) -> bytes:
        found, content = split(file)
        return with_header(compact(found) + padding, content)

    return change


CHANGES: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("truncated", "R8.7 no tensor ends after the file", lambda file: file[:-4]),
    (
        "trailing-bytes",
        "R8.7 nothing follows the tensors",
        lambda file: file + b"\0" * 8,
    ),
    ("hole", "R8.7 there is no hole between tensors", hole),
    ("overlap", "R8.7 no tensors overlap", header(shift(-8))),
    ("header-length-huge", "R8.1 the header is 64 MiB at most", length(2**63)),
    (
        "header-length-beyond-file",
        "R8.1 the header is inside the file",
        length(100_000),
    ),
    ("header-length-zero", "R8.1 there is a header", length(0)),
    ("header-length-one", "R8.1 a header has two bytes", length(1)),
    (
        "header-padded-with-newline",
        "R8.3 a header is padded with spaces",
        padded(b"\n"),
    ),
    ("header-padded-with-tab", "R8.3 a header is padded with spaces", padded(b"\t")),
    (
        "header-byte-order-mark",
        "R6.2 a header has no byte order mark",
        text(b"{", b"\xef\xbb\xbf{"),
    ),
    ("header-not-utf-8", "R6.2 a header is UTF-8", text(b"norm/", b"n\xffrm/")),
    (
        "dtype-missing",
        "R8.5 a tensor has dtype, shape and data_offsets",
        header(lambda h: h["norm/matrix"].pop("dtype")),
    ),
    (
        "three-offsets",
        "R8.5 offsets are two",
        header(lambda h: h["norm/matrix"]["data_offsets"].append(1000)),
    ),
    ("header-cut", "R6.1 the header is one JSON object", length(64)),
    ("header-not-json", "R6.1 the header is JSON", text(b"{", b"(")),
    (
        "header-array",
        "R8.2 the header is an object",
        lambda file: with_header([], b""),
    ),
    ("header-leading-space", "R8.2 the header begins with {", text(b"{", b" {")),
    (
        "header-duplicate-key",
        "R6.4 a tensor is named once",
        text(b'"norm/matrix":', b'"norm/matrix":{"dtype":"F32"},"norm/matrix":'),
    ),
    ("header-not-a-number", "R6.5 NaN is no JSON", text(b"[2,2]", b"[2,NaN]")),
    (
        "header-unknown-field",
        "R8.5 a tensor has dtype, shape and data_offsets only",
        header(lambda h: h["norm/matrix"].update(scale=2)),
    ),
    (
        "two-metadata-keys",
        "R8.4 __metadata__ has one key at most",
        header(lambda h: h.update(__metadata__={"a": "1", "b": "2"})),
    ),
    (
        "metadata-not-a-string",
        "R8.4 __metadata__ maps to strings",
        header(lambda h: h.update(__metadata__={"a": 1})),
    ),
    (
        "metadata-not-an-object",
        "R8.4 __metadata__ is an object",
        header(lambda h: h.update(__metadata__=1)),
    ),
    (
        "tensor-missing",
        "R8.9 every tensor of the manifest is there",
        without_last,
    ),
    (
        "tensor-extra",
        "R8.9 no other tensor is there",
        header(
            lambda h: h.update(
                other={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            )
        ),
    ),
    (
        "tensor-of-another-name",
        "R8.9 a tensor is named <factor>/<field>",
        text(b"norm/matrix", b"norm/values"),
    ),
    (
        "wrong-dtype",
        "R8.8 a tensor has the number type of its storage",
        header(lambda h: h["out/matrix"].update(dtype="BF16")),
    ),
    (
        "unknown-dtype",
        "R8.8 a tensor has the number type of its storage",
        header(lambda h: h["out/matrix"].update(dtype="X16")),
    ),
    (
        "wrong-shape",
        "R8.8 a tensor has the shape of its factor",
        header(lambda h: h["norm/matrix"].update(shape=[4])),
    ),
    (
        "symmetric-not-packed",
        "R8.8 symmetric.1 a symmetric tensor has one axis",
        header(lambda h: h["in/matrix"].update(shape=[2, 5])),
    ),
    (
        "offsets-not-shape",
        "R8.6 the offsets span the shape",
        longer,
    ),
    (
        "offsets-negative",
        "R8.5 offsets are not negative",
        header(lambda h: h["in/matrix"].update(data_offsets=[-40, 0])),
    ),
]


def huge() -> Case:
    """Announce a matrix of 2**62 entries in a small file."""
    draft = whole()
    dim = 2**31 - 1
    draft.manifest["base_model"]["parameters"]["norm.weight"]["shape"] = [dim]
    draft.manifest["factors"]["norm"]["dim"] = dim

    def edit(found: Header) -> None:
        start = found["norm/matrix"]["data_offsets"][0]
        offsets = [start, start + 4 * dim * dim]
        found["norm/matrix"] = {
            "dtype": "F32",
            "shape": [dim, dim],
            "data_offsets": offsets,
        }

    draft.files[SINGLE] = header(edit)(draft.files[SINGLE])
    rule = "R8.7 R13.2 a tensor is inside its file: nothing is allocated for it before"
    return Case("huge-shape", "files", rule, files_of(draft.relist()))


def indexed(name: str, rule: str, edit: Callable[[Header], object]) -> Case:
    """Change the index of a sharded artifact."""
    draft = whole(shards=SHARDS)
    index = json.loads(draft.files[INDEX])
    edit(index)
    draft.files[INDEX] = dump(index)
    return Case(name, "files", rule, files_of(draft.relist()))


FIRST, SECOND = (f"factors-0000{i}-of-00002.safetensors" for i in (1, 2))
INDICES: list[tuple[str, str, Callable[[Header], object]]] = [
    (
        "index-wrong-shard",
        "R8.1.3 a tensor is in the file that the index says",
        lambda i: i["weight_map"].update({"out/matrix": SECOND}),
    ),
    (
        "index-tensor-missing",
        "R8.1.3 the index maps every tensor",
        lambda i: i["weight_map"].pop("out/matrix"),
    ),
    (
        "index-tensor-extra",
        "R8.1.3 the index maps no other tensor",
        lambda i: i["weight_map"].update({"x/matrix": FIRST}),
    ),
    (
        "index-unlisted-file",
        "R8.1.3 the index maps to files of the manifest",
        lambda i: i["weight_map"].update({"out/matrix": "../x.safetensors"}),
    ),
    (
        "index-file-not-a-string",
        "R8.1.1 the index maps to names",
        lambda i: i["weight_map"].update({"out/matrix": [FIRST]}),
    ),
    (
        "index-total-size",
        "R8.1.2 total_size is the sum over the tensors",
        lambda i: i["metadata"].update(total_size=1),
    ),
    (
        "index-map-not-an-object",
        "R8.1.1 weight_map is an object",
        lambda i: i.update(weight_map=[*i["weight_map"]]),
    ),
    (
        "index-total-size-fraction",
        "R6.8 a whole number has no fraction",
        lambda i: i["metadata"].update(total_size=float(i["metadata"]["total_size"])),
    ),
    (
        "index-too-deep",
        "R6.7 the index is JSON as section 6 wants it",
        lambda i: i.update(extra=json.loads("[" * 40 + "]" * 40)),
    ),
    (
        "index-unknown-field",
        "R8.1.1 the index has two fields",
        lambda i: i.update(extra=1),
    ),
    (
        "index-no-metadata",
        "R8.1.1 the index has two fields",
        lambda i: i.pop("metadata"),
    ),
]


def reindexed(name: str, rule: str, change: Callable[[bytes], bytes]) -> Case:
    """Change the text of the index."""
    draft = whole(shards=SHARDS)
    draft.files[INDEX] = change(draft.files[INDEX])
    return Case(name, "files", rule, files_of(draft.relist()))


def damaged(
    name: str,
    level: str,
    rule: str,
    damage: Callable[[dict[str, bytes]], object],
    *,
    shards: list[list[str]] | None = None,
) -> Case:
    """Change a file and leave the manifest as it was."""
    files = files_of(whole(shards=shards))
    damage(files)
    return Case(name, level, rule, files)


def flip(files: dict[str, bytes]) -> None:
    """Flip the lowest bit of the last number: the matrix is a good one still."""
    content = bytearray(files[SINGLE])
    content[-4] ^= 1
    files[SINGLE] = bytes(content)


def turned(files: dict[str, bytes]) -> None:
    """Say the same in the index, in another order."""
    index = json.loads(files[INDEX])
    files[INDEX] = dump(dict(reversed(index.items())))


def shared_out(name: str, rule: str, shards: list[list[str]]) -> Case:
    """Put tensors into other shards than the index says."""
    draft = whole(shards=SHARDS)
    other = whole(shards=shards)
    for file in (FIRST, SECOND):
        draft.files[file] = other.files[file]
    return Case(name, "files", rule, files_of(draft.relist()))


def empty_shard() -> Case:
    """A shard without a tensor, and an index that says so."""
    draft = whole(shards=[["in", "out", "norm"], []])
    rule = "R8.1.4 every shard holds a tensor"
    return Case("empty-shard", "files", rule, files_of(draft))


def file_cases() -> Iterator[Case]:
    """All artifacts whose files are wrong."""
    for name, rule, change in CHANGES:
        yield changed(name, rule, change)
    yield huge()
    for name, rule, edit in INDICES:
        yield indexed(name, rule, edit)
    rule = "R10.1 every listed file is there"
    yield damaged("file-missing", "files", rule, lambda files: files.pop(SINGLE))
    draft = whole()
    draft.manifest["files"][SINGLE]["size"] += 1
    rule = "R10.1 a file has the size in the manifest"
    yield Case("size-mismatch", "files", rule, files_of(draft))
    yield damaged(
        "hash-mismatch", "hash", "R10.2 a file has the hash in the manifest", flip
    )
    rule = "R10.2 the index has the hash in the manifest"
    yield damaged("index-hash-mismatch", "hash", rule, turned, shards=SHARDS)
    rule = "the index is JSON as section 6 wants it"
    yield reindexed(
        "index-byte-order-mark", f"R6.2 {rule}", lambda text: b"\xef\xbb\xbf" + text
    )
    yield reindexed(
        "index-duplicate-key",
        f"R6.4 {rule}",
        lambda text: text.replace(b'"metadata": {', b'"metadata": 1, "metadata": {'),
    )
    rule = "R8.9 a tensor is in one shard"
    yield shared_out("tensor-in-two-shards", rule, [["in", "out"], ["out", "norm"]])
    yield empty_shard()
