"""Noise: sums of clipped contributions by brute force, and the guarantee by formula."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest
import torch
from scipy.stats import chi2, norm
from torch import Tensor, nn

from kfac_artifacts import estimate
from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig, disclosure
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.estimate import (
    ComputeOptions,
    GaussianNoise,
    Inputs,
    Kfac,
    choose_estimator,
    recompute,
)
from kfac_artifacts.estimate.private.noise import cleaned, with_noise
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import join_parts, merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.verify import verify
from tests import models
from tests.artifacts import card_of
from tests.commands import bad, good
from tests.models import SavedModel
from tests.test_privacy import bert, texts

compute = partial(estimate.compute, allow_few=True)
EXACT, ONE = Cotangents("exact", None, 0), Cotangents("mc", 1, 0)
LAYERS = ("encoder.layer.0.*", "embeddings.LayerNorm.*")
SILENT = {"epsilon": 1e10, "delta": 1e-9}
"""So little noise that it is none."""


def ragged(count: int) -> TensorExamples:
    """Texts of two to four tokens."""
    whole = texts(count).tensors
    mask = whole["attention_mask"].clone()
    mask[::3, 3:] = 0
    mask[1::3, 2:] = 0
    ids = whole["input_ids"] * mask + (1 - mask) * models.PAD
    return TensorExamples({"input_ids": ids, "attention_mask": mask}, "texts")


@cache
def alone(count: int, estimator: str) -> list[dict[str, Tensor]]:
    """What each example adds to each factor: the factors of it alone, without noise."""
    data = ragged(count).tensors
    found = []
    for index in range(count):
        one = TensorExamples({n: t[[index]] for n, t in data.items()}, "one")
        of = compute(
            bert(),
            one,
            cotangents=EXACT,
            estimator=choose_estimator(estimator),
            only=LAYERS,
        )
        found.append({n: f.to_dense().double() for n, f in of.factors.items()})
    return found


def private(
    noise: GaussianNoise, estimator: str = "kfac", count: int = 20, **options: Any
) -> Artifact:
    kind = choose_estimator(estimator, noise=noise)
    given = {"cotangents": EXACT, "only": LAYERS, "count": count} | options
    return compute(bert(), ragged(count), estimator=kind, **given)


def balle_wang(epsilon: float, sigma: float) -> float:
    """δ of the Gaussian mechanism of sensitivity 1 (Balle & Wang 2018, Theorem 8)."""
    over, off = 1 / (2 * sigma), epsilon * sigma
    return float(norm.cdf(over - off) - math.exp(epsilon) * norm.cdf(-over - off))


@pytest.mark.parametrize("estimator", ["kfac", "inputs"])
def test_factors_are_means_of_clipped_contributions(estimator: str) -> None:
    examples = alone(20, estimator)
    clip = {
        name: median_low([float(each[name].norm()) for each in examples])
        for name in examples[0]
    }
    found = private(GaussianNoise(**SILENT, clip=clip), estimator, batch_size=7)
    assert set(found.factors) == set(clip)
    for name, norm_ in clip.items():
        cut = [x[name] * min(1, norm_ / float(x[name].norm())) for x in examples]
        wanted = torch.stack(cut).mean(0)
        own = found.factors[name].to_dense().double()
        assert torch.allclose(own, wanted, rtol=1e-3, atol=1e-4 * float(wanted.norm()))


def test_random_cotangents_are_averaged() -> None:
    """With nothing clipped and texts of one length it is ordinary KFAC."""
    given = {"only": LAYERS, "cotangents": Cotangents("mc", 3, 5)}
    plain = compute(bert(), texts(20), **given)
    # no part of a sum of semidefinite matrices is larger than the sum
    clip = {n: 20.01 * float(f.to_dense().norm()) for n, f in plain.factors.items()}
    noise = GaussianNoise(**SILENT, clip=clip)
    found = compute(bert(), texts(20), estimator=Kfac(noise=noise), **given)
    for name in plain.factors:
        wanted, own = plain.factors[name].to_dense(), found.factors[name].to_dense()
        assert torch.allclose(own, wanted, rtol=1e-3, atol=1e-3 * float(wanted.norm()))


@pytest.mark.parametrize("estimator", ["kfac", "inputs"])
def test_clip_norms_are_medians_of_public_data(estimator: str) -> None:
    examples = alone(20, estimator)
    found = private(GaussianNoise(**SILENT, clip=ragged(20)), estimator)
    privacy = found.provenance.sources[0].privacy
    assert privacy is not None
    for name, clip in privacy.clip.items():
        wanted = median_low([float(each[name].norm()) for each in examples])
        assert clip == pytest.approx(wanted, rel=1e-4)


def test_replacing_an_example_moves_the_sum_by_no_more_than_is_said() -> None:
    examples = alone(20, "kfac")
    vectors = [
        torch.cat([(x / x.norm()).flatten() for x in each.values()])
        for each in examples
    ]
    largest = max(float((x - y).norm()) for x in vectors for y in vectors)
    bound = math.sqrt(2 * len(examples[0]))
    assert 0.3 * bound < largest <= bound


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (4.0, 1e-6), (30.0, 1e-9)])
def test_the_noise_is_that_of_the_analytic_gaussian_mechanism(
    epsilon: float, delta: float
) -> None:
    noise = GaussianNoise(epsilon, delta, {"A": 1.0, "B": 2.0})
    multiplier = noise.guaranteed({"A": 1.0, "B": 2.0}).noise_multiplier
    assert balle_wang(epsilon, multiplier) == pytest.approx(delta, rel=1e-4)
    assert balle_wang(epsilon, 0.999 * multiplier) > delta


def test_noise_is_as_large_in_every_direction_of_symmetric_matrices() -> None:
    d, sigma = 600, 0.3
    mean = torch.zeros(d, d, dtype=torch.float64)
    N = with_noise(mean, sigma)
    assert torch.equal(N, N.mT)
    for entries, variance in (
        (N.diagonal(), sigma**2),
        (N[tuple(torch.triu_indices(d, d, 1))], sigma**2 / 2),
    ):
        low, high = chi2.ppf([1e-9, 1 - 1e-9], len(entries))
        assert low < float(entries.square().sum()) / variance < high


def pair() -> tuple[Network, TensorExamples]:
    """A linear map of two inputs, whose factors no noise of 1e-3 makes singular."""
    linear = nn.Linear(2, 2, bias=False).double()
    output = OutputMap(NamedConfig("all"), lambda m, batch: m(batch["x"]))
    x = torch.randn(640, 2, generator=torch.Generator().manual_seed(0))
    return Network(linear, output, "two"), TensorExamples({"x": x.double()}, "x")


def test_what_is_published_has_the_noise_that_the_guarantee_needs() -> None:
    """Two factors clipped at 2 and 1.5, of 640 examples: σ = z √(2 · 2) c / 640."""
    network, data = pair()
    of, epsilon, delta = {"weight.A": 2.0, "weight.B": 1.5}, 50.0, 1e-6
    run = partial(compute, network, data, cotangents=EXACT, count=640, batch_size=640)
    found = run(estimator=Kfac(noise=GaussianNoise(**SILENT, clip=of)))
    true = {n: f.to_dense().double() for n, f in found.factors.items()}
    multiplier = GaussianNoise(epsilon, delta, of).guaranteed(of).noise_multiplier
    assert balle_wang(epsilon, multiplier) == pytest.approx(delta, rel=1e-3)
    total, count, runs = 0.0, 0, 60
    for _ in range(runs):
        noisy = run(estimator=Kfac(noise=GaussianNoise(epsilon, delta, of)))
        for name, norm_ in of.items():
            sigma = multiplier * math.sqrt(4) * norm_ / 640
            N = noisy.factors[name].to_dense().double() - true[name]
            total += float(N.square().sum()) / sigma**2
            count += 3
    low, high = chi2.ppf([1e-9, 1 - 1e-9], count)
    assert low < total < high


def test_noise_is_secret() -> None:
    """The seed of the run is in the manifest, and draws the same examples only."""
    noise = GaussianNoise(1000.0, 1e-3, ragged(20))
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(private(noise, cotangents=ONE))
    one, other = found
    assert (
        one.provenance.sources[0].cotangents == other.provenance.sources[0].cotangents
    )
    for name in one.factors:
        A, B = one.factors[name].to_dense(), other.factors[name].to_dense()
        assert not torch.allclose(A, B)


def test_the_manifest_tells_the_guarantee_and_nothing_that_is_counted(
    tmp_path: Path,
) -> None:
    noise = GaussianNoise(2.0, 1e-3, ragged(20))
    artifact = private(noise)
    save_artifact(artifact, tmp_path / "a")
    again = load_artifact(tmp_path / "a")
    assert again.provenance.sources == artifact.provenance.sources
    told = json.loads((tmp_path / "a" / "kfac.json").read_text())
    privacy = told["sources"][0]["privacy"]
    assert (privacy["epsilon"], privacy["delta"]) == (2.0, 1e-3)
    assert set(privacy["clip"]) == set(told["factors"])
    assert all("positions" not in block for block in told["blocks"].values())
    plain = compute(bert(), ragged(20), only=LAYERS, cotangents=EXACT)
    true = plain.provenance.sources[0].data.fingerprint
    assert told["sources"][0]["data"]["fingerprint"] != true
    assert private(noise).provenance.sources[0].data.fingerprint not in {
        true,
        told["sources"][0]["data"]["fingerprint"],
    }
    assert all(finding.good for finding in verify(tmp_path / "a"))


def test_factors_are_semidefinite_however_much_noise_there_is() -> None:
    artifact = private(GaussianNoise(0.1, 1e-3, ragged(20)))
    for name in artifact.factors:
        values = torch.linalg.eigvalsh(artifact.factors[name].to_dense().double())
        assert float(values[0]) >= -1e-5 * float(values[-1].abs())


def test_cleaning_finds_what_stands_out_of_the_noise() -> None:
    """Nearer to the truth than what merely drops negative eigenvalues, and bounded."""
    d, sigma = 300, 1.0
    radius = sigma * math.sqrt(2 * d)
    U = torch.linalg.qr(
        torch.randn(d, 3, generator=torch.Generator().manual_seed(0)).double()
    ).Q
    true = U @ torch.diag(radius * torch.tensor([4.0, 2.0, 0.8]).double()) @ U.mT
    noisy = with_noise(true, sigma)
    values, vectors = torch.linalg.eigh(noisy)
    projected = (vectors * values.clamp(min=0)) @ vectors.mT
    found = cleaned(noisy, sigma)
    error = float((found - true).norm())
    assert error < 0.4 * float((projected - true).norm())
    shrunk = torch.linalg.eigvalsh(found)
    assert int((shrunk > 1e-6 * radius).sum()) in {2, 3}  # 0.8 does not stand out
    # θ to y = θ + r²/4θ to √(y² − r²) = θ − r²/4θ
    wanted = radius * torch.tensor([2 - 1 / 8, 4 - 1 / 16]).double()
    assert torch.allclose(shrunk[-2:], wanted, rtol=0.1)


def test_merging_keeps_the_guarantee_with_its_task(tmp_path: Path) -> None:
    hidden = private(GaussianNoise(2.0, 1e-3, ragged(20)))
    plain = compute(bert(), ragged(18), only=LAYERS, cotangents=EXACT)
    for name, each in (("hidden", hidden), ("plain", plain)):
        save_artifact(each, tmp_path / name)
    stored = [load_artifact(tmp_path / name) for name in ("hidden", "plain")]
    merged = merge(stored)
    kept = [source.privacy for source in merged.provenance.sources]
    assert kept == [hidden.provenance.sources[0].privacy, None]
    assert (disclosure(merged).few, disclosure(merged).fewest) == (True, 18)
    alone_ = disclosure(stored[0])
    assert not alone_.few
    assert not alone_.warnings
    assert "(2, 0.001)-differential privacy" in str(alone_)
    assert "in 1 of its tasks" in str(disclosure(merged))
    assert "(2, 0.001)-differential privacy" in card_of(stored[0], 1, "place")
    assert "without a guarantee" not in card_of(stored[0], 1, "place")
    with pytest.raises(SettingsError, match="nobody can draw again"):
        recompute(stored[0], bert(), ragged(20))


def test_parts_with_noise_are_not_joined() -> None:
    noise = GaussianNoise(2.0, 1e-3, ragged(20))
    parts = [private(noise, only=(f"encoder.layer.{n}.*",)) for n in range(2)]
    with pytest.raises(MismatchError, match="guarantees add up"):
        join_parts(parts)


def refused(**options: Any) -> Callable[[], object]:
    noise = GaussianNoise(options.pop("epsilon", 1.0), options.pop("delta", 1e-3), {})
    return lambda: private(noise, **options)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (refused(delta=0.05), "no guarantee for 20 examples"),
        (refused(delta=1.5), "between 0 and 1"),
        (refused(epsilon=-1.0), "epsilon -1.0 must be positive"),
        (refused(epsilon=math.inf), "epsilon inf must be positive"),
        (refused(tables=True), "without --include-tables"),
        (refused(options=ComputeOptions("somewhere")), "sums without noise"),
        (refused(), "needs a clip norm above 0"),
        (refused(estimator="nearest"), "noise does not go with nearest, but with kfac"),
        (
            lambda: estimate.compute_with_curvlinops(
                bert(),
                texts(20),
                allow_few=True,
                cotangents=ONE,
                estimator=Kfac(noise=GaussianNoise(1.0, 1e-3, {})),
            ),
            "not with curvlinops",
        ),
    ],
)
def test_what_would_give_no_guarantee_is_refused(
    call: Callable[[], object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        call()


def test_estimators_that_hide_are_those_that_take_noise() -> None:
    from kfac_artifacts.choices import ESTIMATORS, HIDING

    taking = [n for n, kind in ESTIMATORS.items() if "noise" in vars(kind())]
    assert tuple(taking) == HIDING
    assert not any(choose_estimator(name).hides for name in ESTIMATORS)
    assert Inputs(noise=GaussianNoise(1.0, 1e-3, {})).hides


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Texts that are to be hidden, and public ones."""
    found = []
    for number, name in enumerate(("notes", "public")):
        rows = [
            " ".join(models.WORDS[n] for n in ((i + number) % 9, i // 9))
            for i in range(70)
        ]
        found.append(tmp_path / f"{name}.csv")
        found[-1].write_text("\n".join(["text", *rows]) + "\n")
    return found[0], found[1]


def test_the_command_hides_examples(
    saved_model: SavedModel, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    data, public = tables
    start = ("compute", saved_model("bert"), data, "-o", tmp_path / "a")
    noise = ("--dp-epsilon", 8, "--dp-delta", 1e-4, "--dp-public", public)
    said = good(*start, *noise)
    assert "noise hides each example: (8, 0.0001)-differential privacy" in said
    assert not list(tmp_path.glob("*checkpoint*"))
    listed = json.loads(good("inspect", tmp_path / "a", "--json"))
    assert listed["sources"][0]["privacy"]["epsilon"] == 8
    bad(*start, *noise[:4], code=2)
    bad(*start, *noise, "--resume", code=2)
    assert "but with kfac and inputs" in bad(
        *start, *noise, "--estimator", "nearest", code=2
    )
    told = bad(*start, *noise[:3], 0.5, *noise[4:], "--force")
    assert "no guarantee for 70 examples" in told


def test_without_the_extra_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(SettingsError, match=r"kfac-artifacts\[dp\]"):
        GaussianNoise(1.0, 1e-3, {}).guaranteed({"A": 1.0})


def test_a_clip_norm_is_not_of_the_data_that_are_hidden() -> None:
    """The same norms, whichever of two texts is among those that are hidden."""
    noise = GaussianNoise(2.0, 1e-3, ragged(15))
    one = private(noise).provenance.sources[0].privacy
    whole = ragged(20).tensors
    other = TensorExamples({n: t.roll(1, 0) for n, t in whole.items()}, "texts")
    changed = compute(
        bert(), other, estimator=Kfac(noise=noise), only=LAYERS, cotangents=EXACT
    )
    assert one is not None
    assert replace(one) == changed.provenance.sources[0].privacy
