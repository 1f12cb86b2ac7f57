"""A head by itself, as ``apply`` puts it beside a model (``spec/task_vector.md``)."""

from dataclasses import asdict
from pathlib import Path

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import (
    check_version,
    dump_json,
    file_info,
    read_json,
    write_durably,
    write_tensors,
)
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.task_vector.head import Head
from kfac_artifacts.task_vector.head_info import read_head
from kfac_artifacts.task_vector.head_tensors import head_info, head_of, head_tensors
from kfac_artifacts.task_vector.manifest import read_named
from kfac_artifacts.task_vector.numbers import read_tensors, storable

FORMAT, VERSION = "kfac-head", 1
HEADS_FOLDER = "heads"
MANIFEST, TENSORS = "head.json", "head.safetensors"


def save_head(
    directory: Path, head: Head, output_map: NamedConfig | None = None
) -> None:
    """Write a head into a new directory.

    Args:
        directory: The directory; there is nothing at its place.
        head: The head.
        output_map: The function f that it classifies the outputs of.

    Raises:
        FormatError: If a number is not finite.
    """
    info = head_info(head)
    stored = {n: storable(n, tensor) for n, tensor in head_tensors(head).items()}
    directory.mkdir(parents=True)
    file = write_tensors(directory / TENSORS, info.tensors, stored.items())
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "output_map": None if output_map is None else asdict(output_map),
        "head": info.to_json(),
        "files": {TENSORS: asdict(file)},
    }
    write_durably(directory / MANIFEST, dump_json(manifest))


def load_head(directory: str | Path) -> tuple[Head, NamedConfig | None]:
    """Read a head, trusting nothing about the files.

    Args:
        directory: Where it is.

    Returns:
        The head, and the output map that it is for, if that has a name.

    Raises:
        FormatError: If anything breaks ``spec/task_vector.md``.
    """
    place = Path(directory)
    if not (place / MANIFEST).is_file():
        raise FormatError(f"{directory} is no head: there is no {MANIFEST} in it")
    fields = JsonObject(read_json(place / MANIFEST), "manifest")
    check_version(fields, FORMAT, VERSION)
    output_map = fields.maybe("output_map", dict)
    head = read_head(fields.take("head", dict))
    files = fields.each("files", file_info)
    fields.require(set(files) == {TENSORS}, f"files must list {TENSORS} and no other")
    fields.finish(extensible=True)
    named = None if output_map is None else read_named(output_map)
    tensors = read_tensors(place / TENSORS, files[TENSORS], head.tensors)
    return head_of(head, tensors), named


def find_heads(model: Path) -> dict[str, Path]:
    """List the heads beside a model.

    Args:
        model: The directory of the model.

    Returns:
        The directory of each head by its name, sorted.
    """
    places = sorted((model / HEADS_FOLDER).glob(f"*/{MANIFEST}"))
    return {place.parent.name: place.parent for place in places}
