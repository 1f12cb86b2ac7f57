"""The vision model of the benchmarks: whole, as saved, and covered to the last bias."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from tests.brute_force import assert_exact, randomised

ROOT = Path(__file__).parents[2]
WIDTHS, WINDOWS = (2, 4, 6, 4), (7, 3, 2, 3)


@pytest.fixture
def tinyvit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("tinyvit")


@pytest.fixture
def small(tinyvit: ModuleType) -> Module:
    """One of random weights; 32 pixels become maps of 8, 4, 2 and 2 places a side."""
    one = (1, 1, 1, 1)
    return randomised(tinyvit.TinyViT(WIDTHS, one, (1, 2, 3, 2), WINDOWS))


def images(side: int, count: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, side, side, generator=generator)
    return {"pixel_values": x.double()}


def test_every_parameter_is_covered_with_windows_folded_into_the_batch(
    tinyvit: ModuleType, small: Module
) -> None:
    f = tinyvit.network(small).output_map.apply
    assert assert_exact(small, f, images(32)) == {}


def test_an_image_does_not_see_the_others_of_its_batch(
    tinyvit: ModuleType, small: Module
) -> None:
    network, batch = tinyvit.network(small.double()), images(48)
    together = network(batch)
    alone = [network({"pixel_values": x[None]}) for x in batch["pixel_values"]]
    torch.testing.assert_close(together, torch.cat(alone))


def test_padding_of_a_window_changes_nothing_outside_of_it(tinyvit: ModuleType) -> None:
    torch.manual_seed(0)
    block = randomised(tinyvit.Block(4, 2, 3)).eval()
    x = torch.randn(1, 4, 4, 4)  # padded to two by two windows of 3 by 3
    changed = x.clone()
    changed[0, 0, 3, 3] += 1
    moved = block._attended(changed.movedim(1, -1)) - block._attended(x.movedim(1, -1))
    assert moved[0, 3, 3].abs().min() > 0
    assert not moved[0, :3].any()
    assert not moved[0, :, :3].any()


def test_it_has_the_size_of_the_published_model(tinyvit: ModuleType) -> None:
    with torch.device("meta"):
        model = tinyvit.TinyViT()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for p in model.parameters()) == 5_071_124
    assert sum(p.numel() for m in linears for p in m.parameters()) == 4_710_720
