"""What is read out of somebody else's files, in this package's normalisers.

An import turns files into ``Statistics``: for every module that the files know its A (a
mean over positions), its B (a mean over examples of the sum over positions), the whole
or the diagonal of its Gramian. No tensor is in memory before it is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.errors import FormatError, SettingsError

UNKNOWN = Cotangents("unknown", None, 0)
"""Those of files that do not say what was pulled back."""
FORWARD = Cotangents("none", None, 0)
"""Those of files that know inputs alone."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """An array in a file: what shape it has, and how it is read.

    Attributes:
        shape: Its shape, known before it is read.
        read: Gives it, of that shape, in the units of this package.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def times(self, factor: float) -> "Numbers":
        """The same, multiplied when it is read."""
        return Numbers(self.shape, lambda: self.get().double() * factor)

    def block(self, index: int, count: int) -> "Numbers":
        """One of ``count`` equal diagonal blocks of a square matrix."""
        size = self.shape[0] // count
        part = slice(index * size, (index + 1) * size)
        return Numbers((size, size), lambda: self.get()[part, part])

    def get(self) -> Tensor:
        """Read it.

        Returns:
            The array.

        Raises:
            FormatError: If it has another shape than it was said to have.
        """
        found = self.read()
        if tuple(found.shape) != self.shape:
            raise FormatError(
                f"an array has shape {list(found.shape)}, not {list(self.shape)}"
            )
        return found

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


def held(values: Tensor) -> Numbers:
    """An array that is in memory, or mapped into it."""
    return Numbers(tuple(values.shape), lambda: values)


@dataclass(frozen=True, eq=False)
class Eigen:
    """A symmetric matrix by its eigenvectors, in columns ``[d, r]``, and values."""

    vectors: Numbers
    values: Numbers

    @property
    def dim(self) -> int:
        """Number of rows of the matrix."""
        return self.vectors.shape[0]


Matrix = Numbers | Eigen


def dim(matrix: Matrix) -> int:
    """Number of rows of a matrix; zero if it is none."""
    if isinstance(matrix, Eigen):
        return matrix.dim
    square = len(matrix.shape) == 2 and matrix.shape[0] == matrix.shape[1]
    return matrix.shape[0] if square else 0


@dataclass(frozen=True, eq=False)
class Statistic:
    """What files know of one module, or of several that have one input.

    Attributes:
        name: What the files call it.
        targets: Names that it may have in a model, of a module or a parameter: the
            first of these tuples counts of which the model has all names. Several names
            in one tuple are modules with one A, and B cut into equal diagonal blocks.
        A: ``[d_in, d_in]``, with one more row, the last, for a bias; or eigenvectors.
        B: ``[d_out, d_out]``, or eigenvectors.
        S: With eigenvectors the table ``[d_out, d_in]`` of their eigenvalues; else
            the diagonal of the Gramian, of the parameter's shape.
        G: The whole Gramian of a small parameter, ``[D, D]``.
        positions: Of how many positions A is the mean; None if that is not known.
        constant: Whether the last row of A is for an input 1 although the module may
            have no bias, so that it is the mean of the inputs.
    """

    name: str
    targets: tuple[tuple[str, ...], ...]
    A: Matrix | None = None
    B: Matrix | None = None
    S: Numbers | None = None
    G: Numbers | None = None
    positions: int | None = None
    constant: bool = False


@dataclass(frozen=True)
class Known:
    """What is known beside the files.

    Attributes:
        shapes: Shapes of the model's parameters by name, in the model's order.
        examples: How many examples the files are of, if the user says it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    examples: int | None = None


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that was read, and what the files say of how it was made.

    Attributes:
        entries: What is known of every module.
        cotangents: What was pulled back.
        examples: How many examples were used; None if the files do not tell.
        data: What the data are called there, if the files tell.
        files: The files that were read.
        estimator: What gives such numbers, if their blocks do not tell.
        fingerprint: sha256 that stands for the data, if there are no files.
    """

    entries: tuple[Statistic, ...]
    files: tuple[Path, ...]
    cotangents: Cotangents = UNKNOWN
    examples: int | None = None
    data: str | None = None
    estimator: str | None = None
    fingerprint: str | None = None


def whole(values: Tensor) -> int:
    """Read a tensor of one number as a whole number from 0.

    Args:
        values: The tensor.

    Returns:
        The number.

    Raises:
        FormatError: If it is none.
    """
    if values.numel() == 1 and not values.is_complex():
        number = float(values)
        if 0 <= number < 2**53 and number == int(number):
            return int(number)
    raise FormatError(f"a count is {values.flatten()[:3].tolist()}, no whole number")


def from_triangle(values: Tensor, size: int) -> Tensor:
    """Unpack a symmetric matrix from its lower triangle, row by row."""
    matrix = values.new_empty(size, size)
    for i, row in enumerate(values.split([*range(1, size + 1)])):
        matrix[i, : i + 1] = row  # indices of all entries would take twice the memory
        matrix[: i + 1, i] = row
    return matrix


def to_triangle(matrix: Tensor) -> Tensor:
    """Pack a symmetric matrix, the other way round."""
    return torch.cat([row[: i + 1] for i, row in enumerate(matrix)])


def require_examples(source: str, examples: int | None) -> int:
    """Refuse not to know how many examples files are of.

    Args:
        source: The format.
        examples: How many, by the files or the user.

    Returns:
        The same number.

    Raises:
        SettingsError: If there is none.
    """
    if examples is None:
        raise SettingsError(
            f"{source} does not tell how many examples it is of: say it (--examples)"
        )
    return examples
