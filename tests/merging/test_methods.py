"""What is true of every method that merges task vectors, and of their settings."""

import dataclasses
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.choices import MERGES
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.task_vector import Method, TaskVector, choose_method, merging_by
from tests.merging.vectors import SHAPES, assert_same, drawn, merged, vector

METHODS: dict[str, Method] = {
    "sum": "sum",
    "ties": kfac.Ties(keep=0.3),
    "tsv": kfac.Tsv(rank_share=0.25),
    "iso-c": kfac.IsoC(),
    "iso-cts": kfac.IsoCts(common_share=0.5),
    "actmat": kfac.Actmat(centred=True, columns=("up*",)),
}
SVD = ["tsv", "iso-c", "iso-cts"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


def test_all_methods_are_tested() -> None:
    assert set(METHODS) | {"regmean"} == set(MERGES)  # which needs artifacts


def test_the_order_of_the_tasks_changes_nothing(method: Method) -> None:
    a, b, c = drawn(3)
    assert_same(merged([a, b, c], method), merged([c, a, b], method))


@pytest.mark.parametrize("alpha", [0.5, -2.0])
def test_one_factor_for_all_task_vectors_is_one_for_the_result(
    method: Method, alpha: float
) -> None:
    vectors = drawn(3)
    wanted = {n: alpha * t for n, t in merged(vectors, method).items()}
    scaled = kfac.merge_task_vectors(vectors, [alpha] * 3, method)
    assert_same(scaled.tensors, wanted)


def test_factors_are_of_the_task_vectors_before_they_are_merged(method: Method) -> None:
    a, b = drawn(2)
    found = kfac.merge_task_vectors([a, b], [0.3, 2.0], method)
    assert_same(found.tensors, merged([0.3 * a, 2.0 * b], method))


def test_what_a_task_vector_lacks_did_not_move(method: Method) -> None:
    a, b = drawn(2)
    some = {n: t for n, t in b.tensors.items() if n.startswith("up")}
    still = {n: torch.zeros(s) for n, s in SHAPES.items() if n not in some}
    lacking, whole = vector(some), vector({**some, **still})
    assert_same(merged([a, lacking], method), merged([a, whole], method))
    assert_same(merged([lacking, a], method), merged([whole, a], method))


def test_results_are_of_the_number_type_of_the_task_vectors(method: Method) -> None:
    narrow = drawn(2)
    wide = [vector({n: t.double() for n, t in v.tensors.items()}) for v in narrow]
    found, exact = merged(narrow, method), merged(wide, method)
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert {t.dtype for t in exact.values()} == {torch.float64}
    assert_same({n: t.double() for n, t in found.items()}, exact)


@pytest.mark.parametrize("name", [*SVD, "actmat"])
def test_all_that_is_no_matrix_gets_the_mean(name: str) -> None:
    vectors = drawn(3)
    merging = merging_by(METHODS[name], vectors, [1.0] * 3)
    assert merging.averaged == ("up.bias", "conv")
    for other in merging.averaged:
        mean = torch.stack([v.tensors[other] for v in vectors]).mean(0)
        torch.testing.assert_close(merging.change(other), mean)
    assert merging.describe()["averaged"] == ["up.bias", "conv"]


def test_a_task_vector_of_a_single_task_is_kept_by_what_solves_for_it() -> None:
    (alone,) = drawn(1)
    for method in ("tsv", "actmat", kfac.Ties(keep=1.0)):
        assert_same(merged([alone], method), alone.tensors)


@pytest.mark.parametrize("name", SVD)
def test_what_the_svd_leaves_open_does_not_get_into_the_result(name: str) -> None:
    """Changes of rank 1, of which most singular vectors are arbitrary."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(2, 12, generator=generator)
    columns = torch.randn(2, 9, generator=generator)
    a, b = (
        vector({"w": torch.outer(r, c)}) for r, c in zip(rows, columns, strict=True)
    )
    found = merged([a, b], METHODS[name])["w"].double()
    off = found - found @ torch.linalg.pinv(columns.double()) @ columns.double()
    assert off.abs().max() < 1e-5 * found.abs().max()
    assert_same(merged([b, a], METHODS[name]), {"w": found.float()})


@pytest.mark.parametrize("method", [*(METHODS[name] for name in SVD), "actmat"])
def test_copies_of_a_task_vector_are_merged_without_anything_arbitrary(
    method: Method,
) -> None:
    (a,) = drawn(1)
    found = merged([a, a], method)["up.weight"]
    U, _, Vh = torch.linalg.svd(a.tensors["up.weight"])
    along = U[:, :6].mT @ found @ Vh.mT  # in its own singular vectors it is diagonal
    torch.testing.assert_close(along, along.diagonal().diag(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, U[:, :6] @ along @ Vh, rtol=0, atol=1e-5)


def test_settings_that_are_not_of_a_method_are_refused() -> None:
    for name, wrong, having in (
        ("sum", {"keep": 0.1}, "ties"),
        ("ties", {"centred": True}, "actmat"),
        ("tsv", {"nothing": 1}, "none"),
    ):
        message = f"{next(iter(wrong))} does not go with .* {name}, but with {having}"
        with pytest.raises(SettingsError, match=message):
            choose_method(name, **wrong)
    with pytest.raises(SettingsError, match=r"no merge method 'tie'.*'ties'"):
        choose_method("tie", keep=0.1)
    assert choose_method("ties", keep=0.1) == kfac.Ties(keep=0.1)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (kfac.Ties, {"keep": 0.0}),
        (kfac.Ties, {"keep": 1.5}),
        (kfac.Tsv, {"rank_share": 0.0}),
        (kfac.Tsv, {"rank_share": float("nan")}),
        (kfac.IsoCts, {"common_share": -0.1}),
    ],
)
def test_impossible_settings_are_refused(kind: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        kind(**wrong)


def test_ranks_that_have_no_room_beside_one_another_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"3 tasks .* at most 0\.333"):
        merged(drawn(3), kfac.Tsv(rank_share=0.5))


@pytest.mark.parametrize("name", [*SVD, "actmat", "ties"])
def test_numbers_that_are_not_finite_are_refused_by_name(name: str) -> None:
    a, b = drawn(2)
    a.tensors["down.weight"][1, 2] = torch.nan
    with pytest.raises(kfac.MismatchError, match=r"down\.weight .* not finite"):
        merged([a, b], METHODS[name])


def test_a_method_says_its_name_and_all_of_its_settings() -> None:
    vectors = drawn(2)
    for name, method in METHODS.items():
        described = merging_by(method, vectors, [1.0, 1.0]).describe()
        if name == "sum":
            assert described == {}
            continue
        assert isinstance(method, kfac.MergeMethod)
        assert described["method"] == name
        assert described["settings"] == dataclasses.asdict(method)


def test_task_vectors_of_unlike_shapes_are_refused_before_any_work(
    method: Method,
) -> None:
    a, (b,) = drawn(1)[0], drawn(1, {"up.weight": (6, 8)})
    with pytest.raises(kfac.MismatchError, match=r"up\.weight has shape"):
        kfac.merge_task_vectors([a, b], [1.0, 1.0], method)


def test_merging_changes_no_task_vector(method: Method) -> None:
    vectors = drawn(2)
    before: list[str] = [v.sha256 for v in vectors]
    merged(vectors, method)
    assert [v.sha256 for v in vectors] == before
    assert all(isinstance(v, TaskVector) for v in vectors)
