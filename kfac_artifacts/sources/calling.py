"""Calling a model, so that inputs it does not take are reported in one line."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kfac_artifacts.errors import KfacError, SourceError


def call(
    function: Callable[..., Any], inputs: Mapping[str, Tensor], **options: Any
) -> Any:
    """Call a model or a method of one.

    Args:
        function: The model, or its method.
        inputs: Its keyword arguments that come from the data.
        options: Further keyword arguments.

    Returns:
        Whatever it gives.

    Raises:
        SourceError: If it needs other inputs, or other values of them.
        KfacError: Whatever else was raised on purpose meanwhile.
    """
    try:
        return function(**inputs, **options)
    except KfacError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        kind = type(getattr(function, "__self__", function)).__name__
        shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"a {kind} cannot be run on {shapes}: {reason}") from error
