"""Configurations of strangers: what they name to be fetched and run is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.integrations import hub_kernels

from kfac_artifacts.errors import SourceError

IMPLEMENTATIONS = {"eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"}
"""Ways to compute that are part of torch and transformers."""
KERNELS = {"use_kernels", "kernel_config", "hub_kernels"}
QUANTIZATION = {"quantization_config", "compression_config"}


def check_config(config: object, model_id: str) -> None:
    """Refuse a configuration that names code to be fetched or run.

    Args:
        config: The content of ``config.json``.
        model_id: What to call the model in the error.

    Raises:
        SourceError: If it names kernels, or a quantizer; the entry is named.
    """
    for path, value in _entries(config, ()):
        what = _asked_for(path, value)
        if what is not None:
            raise SourceError(
                f"{model_id}: config.json has {'.'.join(path)!r}: "
                f"{str(value)[:100]!r}, which asks for {what}; use a copy without that "
                "entry"
            )


@contextmanager
def no_kernels() -> Iterator[None]:
    """Keep ``transformers`` from fetching kernels that no configuration names.

    Some architectures look for a package of kernels on the Hub when they are built.

    Yields:
        Nothing.
    """
    before = hub_kernels._kernels_enabled
    hub_kernels._kernels_enabled = False
    try:
        yield
    finally:
        hub_kernels._kernels_enabled = before


def _entries(
    value: object, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entries(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item, path)


def _asked_for(path: tuple[str, ...], value: object) -> str | None:
    """What an entry asks for that is not given to it."""
    implementation = any(
        name.endswith(("_implementation", "_implementation_internal")) for name in path
    )
    if implementation and isinstance(value, str) and value not in IMPLEMENTATIONS:
        return "code of others, which is not run"
    if path[-1] in KERNELS and value:
        return "kernels of others, which are not run"
    if path[-1] in QUANTIZATION and value:
        return "quantized weights, which are not read"
    return None
