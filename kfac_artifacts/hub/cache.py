"""The client's cache of downloads: used, and never believed unseen."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

from kfac_artifacts.format import write_durably
from kfac_artifacts.hub.address import COMMIT

logger = getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """What is kept of one model repository.

    Attributes:
        root: The cache of all repositories.
        repo: ``org/name``.
    """

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        """Where the repository is kept."""
        return self.root / repo_folder_name(repo_id=self.repo, repo_type="model")

    def file(self, path: str, commit: str) -> Path | None:
        """Look for a file of a commit.

        Args:
            path: Path in the repository.
            commit: The commit.

        Returns:
            The file, or None if it is not there; what it holds is to be checked.

        Raises:
            IsADirectoryError: If a directory is in its place.
        """
        found = self._pointer(path, commit)
        if found.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, "a directory where a file should be", str(found)
            )
        inside = found.resolve().is_relative_to(self.root.resolve())
        return found if inside and found.is_file() else None

    def commits_with(self, path: str) -> Iterator[str]:
        """Commits of which a file is here; what it holds is to be checked.

        Args:
            path: Path in the repository.

        Yields:
            The commits, in no order.
        """
        snapshots = self.folder / "snapshots"
        for each in snapshots.iterdir() if snapshots.is_dir() else []:
            if COMMIT.fullmatch(each.name) and self.file(path, each.name) is not None:
                yield each.name

    def forget(self, path: str, commit: str) -> None:
        """Remove a file of a commit, so that it is downloaded again."""
        pointer = self._pointer(path, commit)
        content = pointer.resolve()
        if content.is_relative_to(self.root.resolve()):
            content.unlink(missing_ok=True)
        pointer.unlink(missing_ok=True)

    def remember(self, revision: str, commit: str) -> None:
        """Note where a branch or tag is, for a day when the Hub does not answer."""
        note = self._note(revision)
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_durably(note, commit.encode())
        except OSError as error:
            logger.warning("%s cannot be written (%s)", note, error.strerror)

    def remembered(self, revision: str) -> str | None:
        """Where a branch or tag was when the Hub answered last, if that is known."""
        note = self._note(revision)
        if not note.is_file() or note.stat().st_size > 100:
            return None
        commit = note.read_bytes().decode(errors="replace").strip()
        return commit if COMMIT.fullmatch(commit) else None

    def _note(self, revision: str) -> Path:
        return self.folder / "refs" / revision

    def _pointer(self, path: str, commit: str) -> Path:
        return self.folder / "snapshots" / commit / path
