"""Reading what a directory of ``sentence-transformers`` declares: JSON only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.sentence_transformers.declaration import (
    LISTING,
    MODEL_SETTINGS,
    Declaration,
    Step,
)

ENCODER_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in (
        "bert",
        "roberta",
        "distilbert",
        "camembert",
        "albert",
        "xlm-roberta",
        "xlnet",
    )
)
KINDS = {
    "max_seq_length": int,
    "truncate_dim": int,
    "default_prompt_name": str,
    **dict.fromkeys(
        (
            "config_args",
            "config_kwargs",
            "modality_config",
            "model_args",
            "model_kwargs",
            "processing_kwargs",
            "processor_kwargs",
            "prompts",
            "tokenizer_args",
        ),
        dict,
    ),
}
"""What entries of the settings must be, so that a damaged file is reported as one."""


def read_declaration(directory: Path) -> Declaration | None:
    """Read what a directory declares.

    Args:
        directory: A directory of a model.

    Returns:
        The declaration; None if it is not one of ``sentence-transformers``.

    Raises:
        SourceError: If its files are damaged, or name what lies outside of it.
    """
    if not (directory / LISTING).is_file():
        return None
    entries = read_json(directory / LISTING, list)
    try:
        steps = [Step(str(e["type"]), str(e.get("path") or "")) for e in entries]
    except (TypeError, KeyError, AttributeError) as error:
        raise SourceError(
            f"{directory.name}: {LISTING} is no list of modules with type and path"
        ) from error
    if not steps:
        raise SourceError(f"{directory.name}: {LISTING} lists no modules")
    for step in steps:
        if Path(step.folder).is_absolute() or ".." in Path(step.folder).parts:
            raise SourceError(
                f"{directory.name}: {LISTING} names {step.folder!r}, which lies outside"
            )
    encoder = directory / steps[0].folder
    return Declaration(
        directory,
        tuple(steps),
        _settings([encoder / name for name in ENCODER_SETTINGS]),
        _settings([directory / MODEL_SETTINGS]),
    )


def _settings(files: Sequence[Path]) -> dict[str, Any]:
    """Read the first of some files that there is; without the entries that say null."""
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return {}
    found = {k: v for k, v in read_json(path, dict).items() if v is not None}
    for name, kind in KINDS.items():
        if name in found and not isinstance(found[name], kind):
            raise SourceError(
                f"{path.name}: {name} is {found[name]!r:.60}, where a {kind.__name__} "
                "is expected"
            )
    texts = found.get("prompts", {}).values()
    if not all(text is None or isinstance(text, str) for text in texts):
        raise SourceError(f"{path.name}: a prompt is no text")
    return found


def declaration_of(module: nn.Module) -> Declaration | None:
    """Read what was declared beside a loaded encoder, if anything.

    Args:
        module: A model that ``from_pretrained`` loaded from a local directory.

    Returns:
        The declaration of the directory that it came from, or of the one in which that
        is the folder of the encoder.
    """
    place = str(getattr(module, "name_or_path", ""))
    if not place or not Path(place).is_dir():
        return None
    directory = Path(place)
    for top in (directory, directory.parent):
        found = read_declaration(top)
        if found is not None and found.encoder.resolve() == directory.resolve():
            return found
    return None


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON file that holds a list or an object.

    Args:
        path: The file.
        kind: ``list`` or ``dict``.

    Returns:
        Its content.

    Raises:
        SourceError: If it holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path.parent.name}/{path.name} is no JSON: {error}"
        ) from error
    if not isinstance(content, kind):
        raise SourceError(
            f"{path.parent.name}/{path.name} holds a {type(content).__name__}, where a "
            f"{kind.__name__} is expected"
        )
    return content
