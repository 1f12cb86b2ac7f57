"""Pictures of the protocols: what they show, and the same bytes every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from kfac_artifacts.evaluate import (
    Disentanglement,
    DisentanglementMap,
    Localisation,
    LocalisedVector,
    NegatedTask,
    Negation,
    NegationScores,
    plot_disentanglement,
    plot_localisation,
    plot_negation,
)

ALPHAS = (0.0, 0.5, 1.0)
TASK = NegatedTask("a", 9, 0.9, 0.8, ALPHAS, (0.9, 0.5, 0.1), (0.8, 0.78, 0.2))
RATES = tuple(tuple(0.1 * (3 * i + j) for j in range(3)) for i in range(3))
MAP = DisentanglementMap("linear", ALPHAS, (RATES, RATES))
SCORES = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([0.0, 1.0, 0.5])}
DRAWN: dict[str, tuple[Callable[[Any, Path], None], Any]] = {
    "negation": (
        plot_negation,
        Negation("m", "c", 9, 0.95, (NegationScores("linear", (TASK,)),)),
    ),
    "disentanglement": (
        plot_disentanglement,
        Disentanglement("m", ("a", "b"), (9, 9), (MAP, MAP)),
    ),
    "localisation": (
        plot_localisation,
        Localisation("m", {"linear": (LocalisedVector("a", SCORES),)}),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_are_the_same_bytes_every_time(
    tmp_path: Path, name: str, suffix: str
) -> None:
    plot, found = DRAWN[name]
    paths = [tmp_path / f"{n}{suffix}" for n in "ab"]
    for path in paths:
        plot(found, path)
    assert paths[0].stat().st_size > 1000
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_heat_map_has_the_first_factor_to_the_right(tmp_path: Path) -> None:
    corner = tuple(tuple(float((i, j) == (2, 0)) for j in range(3)) for i in range(3))
    bright = DisentanglementMap("linear", ALPHAS, (corner, corner))
    path = tmp_path / "map.png"
    plot_disentanglement(Disentanglement("m", ("a", "b"), (9, 9), (bright,)), path)
    pixels = matplotlib.image.imread(path)[:, : int(0.7 * 780), :3]
    yellow = (pixels - torch.tensor([0.99, 0.91, 0.14]).numpy()).__abs__().sum(2) < 0.1
    rows, columns = yellow.nonzero()
    height, width = yellow.shape
    assert rows.min() > height / 2  # α2 = 0 is below
    assert columns.min() > width / 2  # α1 = 1 is on the right
