"""Calling a model, so that inputs it does not take are reported in one line."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kfac_artifacts.errors import (
    KfacError,
    ModelError,
    first_line,
    is_out_of_memory,
)


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
        ModelError: If it needs other inputs, or other values of them.
        KfacError: Whatever else was raised on purpose meanwhile.
        RuntimeError: If there is not enough memory.
    """
    try:
        return function(**inputs, **options)
    except KfacError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise ModelError(_told(function, inputs, error)) from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(_told(function, inputs, error)) from error


def _told(
    function: Callable[..., Any], inputs: Mapping[str, Tensor], error: Exception
) -> str:
    kind = type(getattr(function, "__self__", function)).__name__
    shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
    return f"a {kind} cannot be run on {shapes}: {first_line(error)}"
