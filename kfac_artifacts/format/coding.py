"""Whole factors to stored tensors, and what is left of them when they are read."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kfac_artifacts.errors import FactorError, FormatError
from kfac_artifacts.factors import (
    MOST_ROWS,
    Factor,
    Role,
    check_factor,
    dear_rows,
    lowest,
    rounding,
)
from kfac_artifacts.format.factor_info import FactorInfo
from kfac_artifacts.format.storage.base import Storage


def encode_factor(
    name: str, info: FactorInfo, factor: Factor
) -> Iterator[tuple[str, Tensor]]:
    """Turn a factor into what is stored of it, tensor by tensor.

    Args:
        name: Of the factor.
        info: How it is stored.
        factor: A factor of that structure and size.

    Yields:
        The tensors that ``stored`` describes, in that order.

    Raises:
        FormatError: If a value does not fit the storage, or no reader would take
            the factor.
    """
    try:
        check_factor(factor)
        for field, values in factor.fields().items():
            tensors = info.storage.encode(values, info.fields[field])
            for suffix, tensor in tensors.items():
                yield f"{name}/{field}{suffix}", tensor
    except (FactorError, FormatError) as error:
        raise FormatError(f"{name}: {error}") from error


def check_verifiable(name: str, info: FactorInfo, factor: Factor) -> None:
    """Refuse a factor that every verifier would report once it is stored.

    Args:
        name: Of the factor.
        info: How it is stored.
        factor: A factor of that structure and size, in no sum of terms.

    Raises:
        FormatError: If an eigenvalue is more negative than rounding explains
            (``spec``, R4.7.3); of matrices of over ``MOST_ROWS`` rows none is computed.
    """
    if dear_rows(factor) > MOST_ROWS:
        return
    allowed = rounding(exact=info.storage.exact)
    held = factor if is_kept(factor, info.storage) else rounded(factor, info.storage)
    ratio = lowest(held, allowed)
    if not ratio >= -allowed:
        raise FormatError(
            f"{name} is indefinite: its smallest eigenvalue is {ratio:.3g} of the "
            f"largest, and rounding to {info.storage.name} explains {-allowed:g}, so "
            "that `kfac verify` would refuse what is written. Save it with the recipe "
            "float32, which repairs that, or allow it all the same (--allow-indefinite)"
        )


def is_kept(factor: Factor, storage: Storage) -> bool:
    """Whether it is plain that a factor is read as it is, to the last bit.

    Args:
        factor: The factor.
        storage: How it is stored.

    Returns:
        Whether the storage rounds nothing, and all numbers are float32, on the CPU,
        in matrices that are exactly symmetric.
    """
    shapes = factor.shapes
    return storage.exact and all(
        isinstance(values, Tensor)
        and (values.dtype, values.device.type) == (torch.float32, "cpu")
        and (shapes[name].role is not Role.MATRIX or torch.equal(values, values.mT))
        for name, values in factor.fields().items()
    )


def rounded(factor: Factor, storage: Storage) -> Factor:
    """Give a factor as it is after writing and reading it.

    Args:
        factor: The factor.
        storage: How it is stored; what stands for that where it does not fit.

    Returns:
        The same in float32 or int8, on the CPU.

    Raises:
        FormatError: If it cannot be stored so.
    """
    shapes = factor.shapes
    own = storage.for_fields(shapes)
    fields = {
        name: own.decode(own.encode(values, shapes[name]), shapes[name])
        for name, values in factor.fields().items()
    }
    return type(factor).from_fields(fields, factor.configuration)
