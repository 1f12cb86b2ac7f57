"""Labels that are drawn from distributions, and what they are as cotangents."""

import pytest
import torch

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.capture.labels import BLOCK, label_cotangents
from kfac_artifacts.capture.sample import LARGEST, bounded
from kfac_artifacts.network import OutputMap
from kfac_artifacts.seeding import seeded

CLASSES = 5
F64 = torch.float64


def distributions(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, CLASSES, generator=generator, dtype=F64)
    return logits.softmax(-1)


def f_of(p: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return (2 * scale * p.sqrt()).flatten()[None]


def test_labels_are_drawn_as_often_as_their_probabilities_say() -> None:
    p, draws = distributions(3), 4000
    f = f_of(p).expand(draws, -1)
    s = label_cotangents(f, CLASSES, [f"seed {n}" for n in range(draws)])
    drawn = s.view(draws, 3, CLASSES)
    assert ((drawn > 0).sum(-1) == 1).all()
    counts = (drawn > 0).sum(0).to(F64)
    chi_square = ((counts - draws * p).square() / (draws * p)).sum(-1)
    assert chi_square.max() < 18.5  # of 4 degrees of freedom: 1 in 1000
    both = (drawn[:, 0, :, None] > 0) & (drawn[:, 1, None, :] > 0)
    joint = both.sum(0) / draws
    torch.testing.assert_close(
        joint.to(F64), torch.outer(p[0], p[1]), atol=0.03, rtol=0
    )


def test_a_label_is_pulled_back_as_the_gradient_of_its_loss() -> None:
    for scale in (1.0, 0.3):
        z = distributions(4).log().requires_grad_()
        f = 2 * scale * (0.5 * z.log_softmax(-1)).exp()
        s = label_cotangents(f.detach().flatten()[None], CLASSES, ["x"])
        (found,) = torch.autograd.grad(f, z, s.view_as(f))
        onehot = (s.view_as(f) > 0).to(F64)
        torch.testing.assert_close(found, scale * (onehot - z.softmax(-1)))


def test_labels_are_the_same_with_others_and_with_padding_beside_them() -> None:
    p = distributions(2)
    short, padding = f_of(p), torch.zeros(1, CLASSES, dtype=F64)
    alone = label_cotangents(short, CLASSES, ["a"])
    padded = torch.cat([short, padding], dim=1)
    other = f_of(distributions(3))
    both = label_cotangents(torch.cat([other, padded]), CLASSES, ["b", "a"])
    torch.testing.assert_close(both[1:], torch.cat([alone, padding], dim=1))


def test_a_class_without_probability_is_never_drawn() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]], dtype=F64).expand(500, -1)
    s = label_cotangents(f_of(p), CLASSES, ["x"]).view(500, CLASSES)
    torch.testing.assert_close(s, p)


@pytest.mark.parametrize("classes", [BLOCK - 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 7])
def test_of_many_classes_the_one_at_u_of_the_cumulated_probabilities_is_drawn(
    classes: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(300, classes, generator=generator, dtype=F64)
    logits[:, : classes // 3] = -torch.inf
    p = logits.softmax(-1)
    s = label_cotangents(f_of(p), classes, ["x"]).view_as(p)
    u = torch.rand(300, generator=seeded("x"), dtype=F64)
    wanted = torch.searchsorted(p.cumsum(1), u[:, None], right=True)[:, 0]
    assert (s.argmax(1) == wanted).all()
    assert ((s > 0).sum(1) == 1).all()
    torch.testing.assert_close(s.amax(1), p[range(300), wanted].rsqrt())


def test_batches_are_small_where_f_has_a_distribution_for_every_token() -> None:
    info = NamedConfig("org.example/tokens")
    tokens = OutputMap(info, lambda _, b: b["x"], classes=LARGEST // 100, ragged=True)
    plain = OutputMap(info, lambda _, b: b["x"])
    for length, wanted in ((10, 10), (30, 3), (1000, 1)):
        batch = {"input_ids": torch.zeros(2, length), "count": torch.zeros(2)}
        assert bounded(16, tokens, batch) == wanted
        assert bounded(16, plain, batch) == 16
