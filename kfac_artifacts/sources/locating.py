"""What cannot be a model, found out without looking for one."""

from pathlib import Path

from kfac_artifacts.errors import SourceError


def check_model(model: str) -> None:
    """Refuse a path at which there is no directory, before anything is imported.

    Args:
        model: A directory or a Hub id.

    Raises:
        SourceError: If it is written as a path, but there is no directory.
    """
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if model.startswith("hf://"):
        return
    path = Path(model).expanduser()
    if path.is_file():
        raise SourceError(
            f"model {model!r} is no directory: it is a file; give the directory that "
            "it is in"
        )
    if is_path and not path.exists():
        raise SourceError(f"model {model!r} is neither a directory nor a Hub id")
