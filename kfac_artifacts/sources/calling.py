"""Calling a model, so that inputs it does not take are reported in one line."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kfac_artifacts.errors import KfacError, SourceError

UNALIGNED = "multiple of 16 bytes"
"""In what torch says of matrices that it does not multiply in groups."""
OF_EXPERTS = (
    "; its experts are multiplied in groups, of rows of such sizes alone: give a wider "
    '--dtype (dtype=), or a copy whose config.json has "experts_implementation": '
    '"eager"'
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
        SourceError: If it needs other inputs, or other values of them.
        KfacError: Whatever else was raised on purpose meanwhile.
    """
    try:
        return function(**inputs, **options)
    except KfacError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        unaligned = UNALIGNED in str(error)
        if isinstance(error, RuntimeError) and not unaligned:
            raise
        kind = type(getattr(function, "__self__", function)).__name__
        shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in inputs.items())
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(
            f"a {kind} cannot be run on {shapes}: {reason}{OF_EXPERTS * unaligned}"
        ) from error
