"""Task vectors added to a model's own checkpoint, without loading the model."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.format import dump_json
from kfac_artifacts.places import check_free, new_directory
from kfac_artifacts.sources.applying_own import WrittenWeights, write_own
from kfac_artifacts.sources.checkpoint import (
    MARKER,
    Belongings,
    Checkpoint,
    Place,
    belongings,
    check_base,
    find_places,
    module_folders,
    named_alike,
    open_checkpoint,
)
from kfac_artifacts.sources.models import (
    DOWNLOADED,
    Location,
    locate,
    number_type_of,
)
from kfac_artifacts.sources.own_models import is_function
from kfac_artifacts.sources.shipped_heads import (
    HEAD_FILES,
    head_names,
    ship_heads,
)
from kfac_artifacts.task_vector import (
    HEADS_FOLDER,
    Merging,
    Method,
    TaskVector,
    find_heads,
    merging_by,
)

FILES = (
    *DOWNLOADED,
    *HEAD_FILES,
    *("*.bpe", "*.codes", "*.jinja", "*.md", "*.spm", "*.tiktoken"),
    *("LICENSE", "NOTICE", "*/model.safetensors"),
)


@dataclass(frozen=True)
class Applied:
    """What was written.

    Attributes:
        path: The directory.
        changed: Names of the stored tensors that something was added to.
        tensors: How many tensors the checkpoint has.
        dtypes: Number types of the changed ones.
        lost: Norm of what rounding took, relative to the norm of what was added.
        files: The files written, relative to the directory.
        left_out: Files and folders of the model that were not copied, with the reason.
        averaged: Parameters of which the mean was added, as the method says nothing of
            them.
        heads: Names of the heads beside the model, each in ``heads/NAME``.
        renamed: How many parameters of task vectors were trained under the names of the
            network without its head, and added under those of the class with it.
    """

    path: Path
    changed: tuple[str, ...]
    tensors: int
    dtypes: tuple[str, ...]
    lost: float
    files: tuple[str, ...]
    left_out: Mapping[str, str]
    averaged: tuple[str, ...]
    heads: tuple[str, ...]
    renamed: int = 0


def apply(
    model: str | Path,
    vectors: Sequence[TaskVector],
    path: str | Path,
    *,
    alphas: Sequence[float] | None = None,
    method: Method = "sum",
    dtype: str | None = None,
    names: Sequence[str] | None = None,
    replace: bool = False,
) -> Applied:
    """Write a model with task vectors added to its weights, whole or not at all.

    Every tensor of the checkpoint is kept, under its name, in its file and of its
    number type, whether the network that was trained has it or not (heads, decoders),
    and so are tokenizer, processor, configuration and what else belongs to the model.
    The heads of the task vectors go beside it, each in ``heads/NAME``.
    What is added, ``Σ_t α_t τ_t`` as a rule, is float32 or wider and rounded once.
    Memory is that of the task vectors and of a few copies of the largest tensor.

    Args:
        model: A directory in the layout of ``transformers``, or a Hub id; or a function
            of your own, ``module:function``, which is run: the weights of its module
            are written to ``model.safetensors``.
        vectors: Task vectors of that model.
        path: The directory to write.
        alphas: Factor of each task vector; None for 1.
        method: How they are merged: a name out of ``choices.MERGES``, a method with
            its settings such as ``Ties(keep=0.1)``, or a class of ``Merging``.
        dtype: Number type of everything that is written; None to keep each tensor's.
        names: What the head of each task vector is called beside the model; None for
            ``task-1``, ``task-2``, …
        replace: Whether what is at ``path`` may be replaced.

    Returns:
        What was written and what was left out.

    Raises:
        MismatchError: If the task vectors are of another model, a parameter is stored
            in a way that nothing can be added to, or numbers become too large.
        SettingsError: If the names of heads are not one folder for each task vector.
    """
    called = head_names(names, vectors)
    alphas = [1.0] * len(vectors) if alphas is None else [*alphas]
    number_type = None if dtype is None else number_type_of(dtype)
    target = Path(path)
    check_free(target, replace=replace, inputs=[model])
    if is_function(model):
        merging = merging_by(method, vectors, alphas)
        return _apply_to_own(
            str(model), merging, target, number_type, called, replace=replace
        )
    location = locate(str(model), FILES)
    alike = named_alike(location, vectors)
    merging = merging_by(method, alike, alphas)
    folder = location.encoder
    checkpoint = open_checkpoint(folder, location.id)
    kept = belongings(location.directory, folder, {*checkpoint.files})
    moved = sorted(merging.names)
    places = find_places(location, checkpoint, {*moved})
    check_base(location, alike, checkpoint, places)
    with new_directory(target, replace=replace) as directory:
        written = directory / folder.relative_to(location.directory)
        _copy_files(location.directory, directory, kept)
        copy = checkpoint.copy(written, number_type)
        if number_type is not None:
            _correct_config(written / "config.json", number_type)
        changes = ((n, merging.change(n).detach().cpu()) for n in moved)
        lost = _add(changes, places, checkpoint, copy)
        heads = ship_heads(location.directory, directory, called, vectors)
        files = _files(directory)
        (directory / MARKER).write_bytes(
            dump_json(_marker(location, vectors, merging, files))
        )
    changed = sorted({n for place in places.values() for n in place.names})
    dtypes = {str(copy.dtype(name)).removeprefix("torch.") for name in changed}
    return Applied(
        target,
        tuple(changed),
        len(checkpoint.shapes),
        tuple(sorted(dtypes)),
        lost,
        tuple(files),
        _left_out(location, kept),
        merging.averaged,
        tuple(heads),
        sum(
            len(own.tensors.keys() - new.tensors.keys())
            for own, new in zip(vectors, alike, strict=True)
        ),
    )


def _apply_to_own(
    model: str,
    merging: Merging,
    target: Path,
    number_type: torch.dtype | None,
    called: Sequence[str],
    *,
    replace: bool,
) -> Applied:
    with new_directory(target, replace=replace) as directory:
        done = write_own(model, merging, directory, number_type)
        heads = ship_heads(None, directory, called, merging.vectors)
        files = _files(directory)
        marker = _marker(done, merging.vectors, merging, files)
        (directory / MARKER).write_bytes(dump_json(marker))
    return Applied(
        target,
        tuple(sorted(merging.names)),
        done.tensors,
        done.dtypes,
        done.lost,
        tuple(files),
        {},
        merging.averaged,
        tuple(heads),
    )


def _left_out(location: Location, kept: Belongings) -> dict[str, str]:
    """What was not copied; heads beside the model were."""
    shipped = {f"{HEADS_FOLDER}/"} if find_heads(location.directory) else set()
    return {name: why for name, why in kept.left_out.items() if name not in shipped}


def _add(
    changes: Iterator[tuple[str, Tensor]],
    places: Mapping[str, Place],
    source: Checkpoint,
    target: Checkpoint,
) -> float:
    """Add changes to a copy of a checkpoint; tell what rounding took of them."""
    added = lost = 0.0
    for name, merged in changes:
        for stored, where, change in places[name].changes(merged):
            old = source.read(stored).reshape(-1)
            old = old if where is None else old[where]
            wide = torch.promote_types(old.dtype, change.dtype)
            new = old.to(wide) + change.to(wide)
            if not bool(new.isfinite().all()):
                raise MismatchError(
                    f"{name} would have numbers that are not finite; give a smaller "
                    "factor"
                )
            written = target.overwrite(stored, new, where)
            added += _square(change)
            if written.dtype != wide:
                lost += _square(written.to(wide) - new)
    return float((lost / added) ** 0.5) if added else 0.0


def _square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _copy_files(source: Path, target: Path, kept: Belongings) -> None:
    for name in kept.kept:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    for folder in module_folders(source):
        (target / folder).mkdir(parents=True, exist_ok=True)


def _correct_config(path: Path, dtype: torch.dtype) -> None:
    """Let ``config.json`` name the number type of the weights, where it names one."""
    config = json.loads(path.read_text("utf-8"))
    _name_dtype(config, str(dtype).removeprefix("torch."))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, "utf-8")


def _name_dtype(config: Any, name: str) -> None:
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key in {"dtype", "torch_dtype"} and isinstance(value, str):
            config[key] = name
        else:
            _name_dtype(value, name)


def _files(directory: Path) -> list[str]:
    files = (f for f in directory.rglob("*") if f.is_file())
    return sorted(f.relative_to(directory).as_posix() for f in files)


def _marker(
    base: Location | WrittenWeights,
    vectors: Sequence[TaskVector],
    merging: Merging,
    files: Sequence[str],
) -> dict[str, Any]:
    """Say of what the model was made; it tells as well that this tool wrote it."""
    return {
        "format": "kfac-applied-model",
        "version": 1,
        "base": {"id": base.id, "revision": base.revision},
        **merging.describe(),
        "vectors": [
            {"sha256": vector.sha256, "alpha": alpha}
            for vector, alpha in zip(vectors, merging.alphas, strict=True)
        ],
        "files": [*files],
    }
