"""The files beside a model's weights: which belong to it, and which are left out.

A directory may hold other weights (that would stay as they were before a change), code,
pickles, caches and private files. Only what is known to describe a model is kept.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.sentence_transformers import read_declaration

TEXTS = frozenset(
    {".bpe", ".codes", ".jinja", ".json", ".md", ".model", ".spm", ".tiktoken", ".txt"}
)
NAMES = frozenset({"COPYING", "LICENSE", "NOTICE", "README"})
TEMPLATES = "additional_chat_templates"
MARKER = "kfac_apply.json"
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True)
class Belongings:
    """Files and folders of a model's directory, relative to it.

    Attributes:
        kept: Files that belong to the model beside its weights.
        left_out: Files and folders that do not, with the reason.
    """

    kept: tuple[Path, ...]
    left_out: dict[str, str]


def belongings(directory: Path, encoder: Path, weights: Set[Path]) -> Belongings:
    """Tell what of a model's directory belongs to the model.

    Args:
        directory: The directory.
        encoder: The directory itself or a folder in it, where the weights are.
        weights: Files that hold the model's weights, which are not listed.

    Returns:
        What is kept and what is not.

    Raises:
        SourceError: If a module of ``sentence-transformers`` has pickled weights only
            or is a linked folder, or the configuration lies outside the directory.
    """
    folders = module_folders(directory)
    inner = encoder.relative_to(directory).as_posix()
    others = set(folders) - {inner}
    kept: list[Path] = []
    left_out: dict[str, str] = {}
    for path in _walk(directory, {*folders, inner, TEMPLATES}):
        name = path.relative_to(directory)
        if path in weights or name.name == MARKER:
            continue
        reason = _reason(path, directory, others)
        if reason is None:
            kept.append(name)
        else:
            left_out[name.as_posix() + ("/" if path.is_dir() else "")] = reason
    _check_config(encoder / "config.json", directory)
    _check_modules(directory, others, kept)
    return Belongings(tuple(kept), left_out)


def module_folders(directory: Path) -> list[str]:
    """Folders of the modules of ``sentence-transformers``, as ``modules.json`` says."""
    declaration = read_declaration(directory)
    steps = () if declaration is None else declaration.steps
    folders = (Path(step.folder).as_posix() for step in steps if step.folder)
    return [f for f in folders if f != "." and _is_inside(directory, f)]


def _is_inside(directory: Path, folder: str) -> bool:
    hidden = any(part.startswith(".") for part in Path(folder).parts)
    return not hidden and (directory / folder).is_dir()


def _walk(directory: Path, entered: Set[str]) -> Iterator[Path]:
    """List files at the top and in some folders, and every folder not entered."""
    pending = [directory]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            name = path.relative_to(directory).as_posix()
            inside = any(_within(name, e) or _within(e, name) for e in entered)
            if path.is_dir() and not path.is_symlink() and inside:
                pending.append(path)
            else:
                yield path


def _within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _reason(path: Path, directory: Path, modules: Set[str]) -> str | None:
    """Why a file is left out; None if it is kept."""
    folder = path.parent.relative_to(directory).as_posix()
    known = path.suffix in TEXTS or path.name in NAMES
    problems = {
        "a name that is no text": not path.name.isprintable(),
        "hidden": path.name.startswith("."),
        "a link that leads outside the directory": not _may_follow(path, directory),
        "a folder that is no part of the model": path.is_dir(),
        "pickle, which can run code": path.suffix in PICKLES,
        "code": path.suffix == ".py",
        "other weights": path.suffix == ".safetensors" and folder not in modules,
        "not known to describe a model": not known and path.suffix != ".safetensors",
        "about other weights": path.name.endswith(".index.json"),
    }
    return next((reason for reason, found in problems.items() if found), None)


def _may_follow(path: Path, directory: Path) -> bool:
    """Whether what a path stands for lies in the directory, or in its Hub cache."""
    target, root = path.resolve(), directory.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    return any(target.is_relative_to(r) for r in roots)


def _check_config(path: Path, directory: Path) -> None:
    if not _may_follow(path, directory):
        raise SourceError(
            f"{path} leads outside the model's directory, and what is not in it is not "
            "copied; put the file itself there"
        )


def _check_modules(directory: Path, folders: Set[str], kept: Sequence[Path]) -> None:
    """Refuse a module that would be missing in what is written, or its weights."""
    for folder in sorted(folders):
        if (directory / folder).is_symlink():
            raise SourceError(
                f"{folder}, where a module of {directory} is, is a link to a folder, "
                "which is not copied; put the folder itself there"
            )
    safe = {name.parent.as_posix() for name in kept if name.suffix == ".safetensors"}
    for folder in sorted(folders - safe):
        pickled = [f for f in (directory / folder).iterdir() if f.suffix in PICKLES]
        if pickled:
            raise SourceError(
                f"{pickled[0]} holds the weights of a module as pickle only, which is "
                "neither read nor copied; save the model again with safetensors"
            )
