"""What this package writes, in a few bytes, for tests of where it is written."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfac_artifacts.places import new_directory


def fill(directory: Path, content: str) -> None:
    """Write what is told to be an artifact: two files that name the same content."""
    (directory / "factors.safetensors").write_text(content)
    manifest = {"format": "kfac-artifact", "content": content}
    (directory / "kfac.json").write_text(json.dumps(manifest))


def write(
    path: Path, content: str, *, meanwhile: Any = lambda: None, **options: Any
) -> None:
    with new_directory(path, **options) as directory:
        fill(directory, content)
        meanwhile()


def write_new(place: Path, *, replace: bool) -> None:
    write(place, "new", replace=replace)


def read(path: Path) -> str:
    """The content of a whole directory; fails if it is not whole."""
    content = json.loads((path / "kfac.json").read_text())["content"]
    assert (path / "factors.safetensors").read_text() == content
    assert {p.name for p in path.iterdir() if not p.name.startswith(".")} == {
        "kfac.json",
        "factors.safetensors",
    }
    return content


def tree(path: Path) -> dict[str, bytes]:
    """Every file under a directory with its content, and every empty directory."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else b"/"
        for p in path.rglob("*")
        if p.is_file() or not any(p.iterdir())
    }


_watched: dict[str, Callable[[], None]] = {}


@functools.cache
def _watch() -> None:
    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _watched and isinstance(arguments[0], str | Path):
            do = _watched.pop(str(arguments[0]), None)
            if do is not None:
                do()

    sys.addaudithook(opened)


@contextmanager
def when_opened(file: Path, do: Callable[[], None]) -> Iterator[None]:
    """Do something just before a file is opened for the first time, by anybody here."""
    _watch()
    _watched[str(file)] = do
    yield
    assert str(file) not in _watched, f"nobody has opened {file}"


def lay(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir()
    for name, content in files.items():
        file = directory / name.rstrip("/").removesuffix("->")
        file.parent.mkdir(exist_ok=True, parents=True)
        if name.endswith("/"):
            file.mkdir()
        elif name.endswith("->"):
            file.symlink_to(content)
        else:
            file.write_text(content)
    return directory
