"""What is said in words about measured numbers."""

import pytest

from kfac_artifacts.artifact import Cotangents, DataInfo, NamedConfig
from kfac_artifacts.fidelity import (
    Agreement,
    Comparison,
    Directions,
    Drift,
    Fidelity,
    HeldOut,
    agreement,
    verdict,
)


def found(
    squared_error: float | None = 0.25,
    *,
    cosine: float | None = 0.8,
    scale: float | None = 1.0,
    noise: float | None = 1e-4,
    estimator: str = "kfac",
    **directions: tuple[float, Agreement],
) -> Fidelity:
    data = DataInfo("test", None, None, "0" * 64, 8, 10, NamedConfig("tensors"))
    total = Comparison(1.0, 1.0, squared_error, noise, cosine, scale)
    return Fidelity(
        digest=None,
        estimator=estimator,
        held_out=HeldOut(data, 0, None),
        cotangents=Cotangents("mc", 1, 0),
        modules=[],
        total=total,
        kinds={},
        directions={
            kind: Directions([Drift("0", ratio, 1.0, 0.0)], modules)
            for kind, (ratio, modules) in directions.items()
        },
    )


def along(*predicted: float) -> Agreement:
    pairs = [Drift("", p, float(t), 0.0) for t, p in enumerate(predicted, start=1)]
    return agreement(pairs)


@pytest.mark.parametrize(
    ("squared_error", "words"),
    [
        (0.01, "Close to the true curvature"),
        (0.25, "A fair approximation"),
        (0.8, "A rough approximation"),
        (1.5, "Further from the true curvature than zero"),
    ],
)
def test_errors_are_put_in_words(squared_error: float, words: str) -> None:
    assert verdict(found(squared_error))[0].startswith(words)


def test_another_estimator_is_only_advised_where_it_is_another() -> None:
    assert "nearest" in verdict(found(0.8))[0]
    assert "nearest" not in verdict(found(0.8, estimator="nearest"))[0]


def test_good_curvature_needs_one_sentence() -> None:
    assert len(verdict(found(0.01))) == 1


@pytest.mark.parametrize(("scale", "word"), [(0.25, "too large"), (3.0, "too small")])
def test_a_wrong_scale_is_told(scale: float, word: str) -> None:
    assert any(word in sentence for sentence in verdict(found(scale=scale)))


def test_an_uncertain_error_asks_for_more_examples() -> None:
    assert any("--examples" in sentence for sentence in verdict(found(noise=0.4)))


def test_drifts_are_told_with_their_order() -> None:
    good, bad = along(0.5, 1.0, 1.5), along(3.0, 2.0, 1.0)
    said = verdict(found(random=(0.5, good), gradient=(0.9, bad)))
    assert any("it sees 0.5 times" in s and "and tells" in s for s in said)
    assert any("gradients" in s and "does not tell" in s for s in said)


def test_what_is_between_modules_is_missed() -> None:
    said = verdict(found(gradient=(0.02, along(0.5, 1.0))))
    assert any("it sees 0.02 of the drift" in sentence for sentence in said)


def test_no_curvature_at_all_is_no_approximation() -> None:
    said = verdict(found(None, cosine=None, scale=None, noise=None))
    assert said == [
        "The true curvature is zero on these examples: there is nothing to say."
    ]
