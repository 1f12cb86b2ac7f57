"""Folders of images, with a subfolder per class or none: what is read, and what not.

Links are followed, but not back to where they come from. Hidden files and folders and
those that systems leave behind are no data. A file is an image by its ending. A class
is a folder at the top, and what lies below belongs to it.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from kfac_artifacts.errors import SourceError, listed, printable
from kfac_artifacts.sources.tables.table import count

TRAIN = ("train", "training")
SPLITS = {*TRAIN, "test", "testing", "val", "valid", "validation", "dev", "eval"}
LEFT_BEHIND = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"}
NOT_STILL = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "IPTC"}
"""Formats that PIL names and does not decode, or not everywhere."""
RUNS_CODE = {"EPS"}
UNREAD = {
    *(".heic", ".heif", ".jxl", ".svg", ".hdr", ".exr", ".raw", ".dng", ".cr2", ".cr3"),
    *(".nef", ".arw", ".orf", ".rw2", ".raf", ".psb", ".eps", ".wmf", ".emf", ".jxr"),
    *(".avif", ".avifs", ".webp", ".jp2", ".tif", ".tiff"),
}
"""Endings of images that are not read, or not by every build of PIL."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".arrow"}


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder.

    Attributes:
        root: What their names are relative to.
        split: The subfolder that was taken, if one was.
        names: Their paths, sorted.
        classes: The subfolder that each is in; none if some are in no subfolder.
        notes: What else there is, and what became of it.
    """

    root: Path
    split: str | None
    names: Sequence[str]
    classes: Sequence[str]
    notes: Sequence[str]


def list_images(path: Path, split: str | None, *, labelled: bool) -> ImageFolder:
    """List the images in a folder.

    Args:
        path: The folder.
        split: A subfolder to take; None for ``train``, if it is alone or beside other
            splits.
        labelled: Whether classes are needed.

    Returns:
        The images.

    Raises:
        SourceError: If there is no such split, no image in it, a folder cannot be read,
            or classes are needed and an image has none.
    """
    root, split, notes = _root(path, split)
    found = _Found(root)
    try:
        files = sorted(found.images(root, ()))
    except OSError as error:
        name = Path(error.filename or root).name
        raise SourceError(f"{name} cannot be read: {error.strerror}") from error
    notes += found.notes()
    if not files:
        rest = f" ({'; '.join(notes)})" if notes else ""
        raise SourceError(
            f"there are no images in the folder {root.name}{rest}{found.advice()}"
        )
    _check_contents(root, files)
    names = [file.relative_to(root) for file in files]
    stray = [name.name for name in names if len(name.parts) == 1]
    classes = [name.parts[0] for name in names if len(name.parts) > 1]
    if stray and classes:
        problem = f"{_counted(stray, 'image')} beside the folders of classes"
        if labelled:
            raise SourceError(
                f"{root.name} has {problem}: without a class of their own; move them "
                "into a folder, or away"
            )
        notes.append(f"{problem}, so there are no classes")
    if labelled:
        _check_classes(root, names, notes)
    deep = sum(len(name.parts) > 2 for name in names)
    if deep and not stray:
        notes.append(
            f"{count(deep, 'image')} in folders within those at the top, of whose "
            "class they are"
        )
    empty = found.visited - set(classes)
    if empty and not stray:
        notes.append(f"no images in {listed(sorted(empty), 3)}")
    return ImageFolder(
        root, split, [str(name) for name in names], () if stray else classes, notes
    )


def _check_contents(root: Path, files: Sequence[Path]) -> None:
    """Refuse files without content, as a download that failed leaves behind."""
    hollow = [str(f.relative_to(root)) for f in files if not f.stat().st_size]
    if hollow:
        raise SourceError(
            f"{root.name} has {_counted(hollow, 'image')} of 0 bytes; fetch them "
            "again, or remove them"
        )


def _check_classes(root: Path, names: Sequence[Path], notes: Sequence[str]) -> None:
    """Refuse images of no class, and those that are all in one folder of classes."""
    top = {name.parts[:-1][:1] for name in names}
    below = sorted({name.parts[1] for name in names if len(name.parts) > 2})
    rest = f" ({'; '.join(notes)})" if notes else ""
    if top == {()}:
        raise SourceError(
            f"{root.name} has no folders of classes: its images lie beside one another"
            f"{rest}"
        )
    if len(top) == 1 and below[1:]:
        ((only,),) = top
        raise SourceError(
            f"all images of {root.name} are in its one folder {printable(only)}, so "
            f"there is one class; if the classes are {listed(below, 3)}, give "
            "that folder as the data"
        )


def _root(path: Path, split: str | None) -> tuple[Path, str | None, list[str]]:
    """The folder to take, its split, and what is said of other splits."""
    folders = sorted(
        child.name
        for child in path.iterdir()
        if child.is_dir() and not _is_left_behind(child.name)
    )
    splits = [name for name in folders if name.lower() in SPLITS]
    train = [name for name in splits if name.lower() in TRAIN]
    if split is None and len(train) == 1 and (splits[1:] or folders == splits):
        split = train[0]  # else it is a class, beside cars and ships
    elif split is None and folders == splits and len(splits) == 1:
        split = splits[0]
    elif split is None and splits[1:] and folders == splits:
        raise SourceError(
            f"{path.name} has the splits {listed(splits, 3)}; choose one (--split)"
        )
    if split is None:
        return path, None, []
    if split not in folders:
        raise SourceError(
            f"{path.name} has no split {split!r}; its folders are {listed(folders, 3)}"
        )
    others = [name for name in folders if name != split]
    return path / split, split, [f"not of {listed(others, 3)}"] if others else []


@dataclass
class _Found:
    """What lies in a folder beside images."""

    root: Path
    visited: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    metadata: list[str] = field(default_factory=list)

    def images(self, folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
        """Walk through a folder, noting what is no image."""
        above = (*above, os.path.realpath(folder))
        for child in folder.iterdir():
            if _is_left_behind(child.name):
                self.left_out["hidden"] += 1
            elif child.is_dir():
                if os.path.realpath(child) in above:
                    self.left_out["link back to a folder above"] += 1
                    continue
                if folder == self.root:
                    self.visited.add(child.name)
                yield from self.images(child, above)
            elif self._is_image(child):
                yield child

    def _is_image(self, file: Path) -> bool:
        ending = file.suffix.lower()
        if not file.is_file():
            self.left_out["broken link" if file.is_symlink() else "no file"] += 1
        elif ending in endings():
            return True
        elif ending in UNREAD:
            self.left_out[f"{ending} (images, but not read here)"] += 1
        elif file.name in METADATA:
            self.metadata.append(str(file.relative_to(self.root)))
        else:
            self.endings[ending or "no ending"] += 1
        return False

    def notes(self) -> list[str]:
        """Say what was left out, and why."""
        notes = [f"{n} {what}" for what, n in sorted(self.left_out.items())]
        if self.endings:
            kinds = listed([kind for kind, _ in self.endings.most_common()], 3)
            notes.append(f"{count(self.endings.total(), 'other file')} ({kinds})")
        said = [f"left out: {', '.join(notes)}"] if notes else []
        if self.metadata:
            said.append(
                f"{self.metadata[0]} is not read: to use it, give this file as the "
                "data and its column of names as that of images"
            )
        return said

    def advice(self) -> str:
        """Say how texts are given, if what is there may be texts."""
        if TABLES.isdisjoint(self.endings):
            return ""
        return (
            "; a folder is one of images, and texts are given as one file: csv, tsv, "
            "jsonl or parquet, with a row per text"
        )


@cache
def endings() -> frozenset[str]:
    """Endings of the image files that are read: all that PIL here decodes by itself."""
    left_out = NOT_STILL | RUNS_CODE
    return frozenset(
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in left_out
    )


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _counted(names: Sequence[str], what: str) -> str:
    return f"{count(len(names), what)} ({listed(names, 3)})"
