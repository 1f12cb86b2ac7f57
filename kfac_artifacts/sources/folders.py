"""Folders of images, with a subfolder per class or none."""

from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables import Table

IMAGES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def read_folder(path: Path, split: str | None) -> tuple[Table, str | None, Path]:
    """List the images in a folder.

    Args:
        path: The folder.
        split: A subfolder to take; None for ``train``, if there is one.

    Returns:
        A table of paths and, if every image is in a subfolder, of the names of these;
        the split; and the folder that paths are relative to.

    Raises:
        SourceError: If there is no such split, or no image in it.
    """
    if split is None and (path / "train").is_dir():
        split = "train"
    root = path if split is None else path / split
    if not root.is_dir():
        found = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise SourceError(
            f"{path.name} has no split {split!r}; its folders are "
            f"{', '.join(found) or 'none'}"
        )
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in IMAGES)
    if not files:
        raise SourceError(f"there are no images in the folder {root.name}")
    columns = {"image": [str(file.relative_to(root)) for file in files]}
    if all(file.parent != root for file in files):
        columns["label"] = [file.relative_to(root).parts[0] for file in files]
    table = Table(
        name=path.resolve().name,
        names=tuple(columns),
        columns=columns,
        numbers=range(1, len(files) + 1),
    )
    return table, split, root
