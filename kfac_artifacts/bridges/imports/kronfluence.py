"""kronfluence's directory of factors: sums over everything, and how many there were.

Of a module with P positions in all n examples (kronfluence 1.0.1,
``module/tracker/factor.py``)

    A = activation_covariance / P      B = gradient_covariance / n

With the strategy ``ekfac`` there are eigenvectors of both, whose values are divided by
P each, and ``lambda_matrix``, the sum over examples of squared gradients along them:

    S = lambda_matrix / num_lambda_processed

The loss is the user's own. With labels that the model draws, as is done unless it was
told otherwise, its curvature is the Fisher matrix, summed over the positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import read_safetensors
from kfac_artifacts.bridges.statistics import (
    Eigen,
    Known,
    Numbers,
    Statistic,
    Statistics,
    require_examples,
    whole,
)
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import read_json

COVARIANCES = ("activation_covariance", "gradient_covariance")
POSITIONS = "num_activation_covariance_processed"
EXAMPLES = "num_lambda_processed"
VECTORS = ("activation_eigenvectors", "gradient_eigenvectors")
VALUES = ("activation_eigenvalues", "gradient_eigenvalues")
LAMBDA = "lambda_matrix"
METADATA = "covariance_dataset_metadata.json"
ARGUMENTS = "factor_arguments.json"


@final
@dataclass(frozen=True)
class Kronfluence(Import):
    """Factors of all modules; its path is the directory ``factors_<name>``."""

    name = "kronfluence"

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        told = _examples(path)
        count = require_examples(self.name, known.examples or told)
        wanted = [*COVARIANCES, POSITIONS]
        corrected = (path / f"{LAMBDA}.safetensors").is_file()
        if corrected:
            wanted += [*VECTORS, *VALUES, LAMBDA, EXAMPLES]
        files = tuple(path / f"{name}.safetensors" for name in wanted)
        found = {file.stem: read_safetensors(file) for file in files}
        modules = found[COVARIANCES[0]]
        for name, own in found.items():
            if own.keys() != modules.keys():
                raise FormatError(f"{path}: {name} is of other modules than the rest")
        make = _eigen if corrected else _kronecker
        entries = [make(name, found, count) for name in modules]
        return Statistics(tuple(entries), files, examples=told, data=path.name)


Found = Mapping[str, Mapping[str, Numbers]]


def _kronecker(module: str, found: Found, examples: int) -> Statistic:
    positions = whole(found[POSITIONS][module].get())
    A, B = (found[name][module] for name in COVARIANCES)
    return Statistic(
        module,
        ((module,),),
        A.times(1 / max(positions, 1)),
        B.times(1 / examples),
        positions=positions,
    )


def _eigen(module: str, found: Found, examples: int) -> Statistic:
    positions = whole(found[POSITIONS][module].get())
    U, V = (found[name][module] for name in VECTORS)
    of_inputs, of_outputs = (found[name][module] for name in VALUES)
    count = whole(found[EXAMPLES][module].get())
    return Statistic(
        module,
        ((module,),),
        Eigen(U, of_inputs),
        Eigen(V, of_outputs.times(positions / examples)),
        found[LAMBDA][module].times(1 / max(count, 1)),
        positions=positions,
    )


def _examples(path: Path) -> int | None:
    """How many examples the covariances are of, if the files beside them tell."""
    metadata, arguments = path / METADATA, path / ARGUMENTS
    if not metadata.is_file():
        return None
    size = _member(metadata, "dataset_size")
    most = (
        _member(arguments, "covariance_max_examples") if arguments.is_file() else None
    )
    return size if size is None or most is None else min(size, most)


def _member(path: Path, name: str) -> int | None:
    content = read_json(path)
    found = content.get(name) if isinstance(content, dict) else None
    return found if isinstance(found, int) and found > 0 else None
