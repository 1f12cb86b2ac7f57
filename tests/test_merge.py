"""Merging (TAK, Eq. 8): its algebra, its error, and what it refuses."""

import resource
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from kfac_artifacts.artifact import (
    Artifact,
    BaseModel,
    GramianBlock,
    HeldFactors,
    KroneckerBlock,
    Layout,
    NamedConfig,
    ParameterInfo,
)
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import Dense
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import factor_sums, merge, weights
from tests.artifacts import artifact, dense_block, psd, renamed, with_factors


def assert_same(one: Artifact, other: Artifact, **tolerance: Any) -> None:
    assert one.provenance.tasks == other.provenance.tasks
    assert one.provenance.size == other.provenance.size
    for name in one.factors:
        torch.testing.assert_close(
            one.factors[name].to_dense(), other.factors[name].to_dense(), **tolerance
        )


def test_merging_follows_equation_8() -> None:
    parts = [artifact(1, 10), artifact(2, 30)]
    merged = merge(parts)
    a, b = ([p.factors[n].to_dense() for p in parts] for n in ("linear.A", "linear.B"))
    torch.testing.assert_close(
        merged.factors["linear.A"].to_dense(), 0.25 * a[0] + 0.75 * a[1]
    )
    torch.testing.assert_close(merged.factors["linear.B"].to_dense(), b[0] + b[1])
    g = [p.factors["norm.weight.G"].to_dense() for p in parts]
    torch.testing.assert_close(
        merged.factors["norm.weight.G"].to_dense(), 0.25 * g[0] + 0.75 * g[1]
    )
    assert merged.provenance.tasks == 2
    assert merged.provenance.size == 40
    assert list(weights(merged.provenance).values()) == [0.25, 0.75]


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 1000), min_size=3, max_size=5))
def test_merging_is_associative_and_free_of_order(sizes: Any) -> None:
    parts = [artifact(i, size) for i, size in enumerate(sizes)]
    together = merge(parts)
    assert_same(merge(parts[::-1]), together)
    assert_same(merge([merge(parts[:2]), *parts[2:]]), together)
    assert_same(merge([parts[0], merge(parts[1:])]), together)


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=5))
def test_total_minus_own_is_the_others(sizes: Any) -> None:
    parts = [artifact(i, size) for i, size in enumerate(sizes)]
    others = merge([merge(parts)], exclude=[parts[0]])
    assert_same(others, merge(parts[1:]))
    assert others.provenance.sources == merge(parts[1:]).provenance.sources


@pytest.mark.parametrize("copies", [1, 2, 8])
def test_merging_equal_copies_gives_that_many_times_the_kronecker_blocks(
    copies: int,
) -> None:
    one = artifact(3)
    merged = merge([renamed(one, f"copy{i}") for i in range(copies)])
    for name, block in merged.blocks.items():
        times = 1 if isinstance(block, GramianBlock) else copies
        torch.testing.assert_close(
            dense_block(merged, name), times * dense_block(one, name)
        )
        scale = block.scale(merged.provenance.tasks)
        torch.testing.assert_close(
            scale * dense_block(merged, name), dense_block(one, name)
        )
    for error in merged.provenance.merge_errors.values():
        assert error.relative < 1e-7


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 100), min_size=2, max_size=5))
def test_error_is_that_of_the_formed_products_and_the_bound_holds(sizes: Any) -> None:
    parts = [artifact(i, size) for i, size in enumerate(sizes)]
    merged = merge(parts)
    total = sum(sizes)
    for name, error in merged.provenance.merge_errors.items():
        target = sum(
            size / total * dense_block(part, name)
            for part, size in zip(parts, sizes, strict=True)
        )
        found = dense_block(merged, name) / len(parts)
        relative = (target - found).norm() / target.norm()
        assert error.relative == pytest.approx(float(relative), rel=1e-6)
        assert error.relative <= error.bound * (1 + 1e-9)


def test_bound_is_equation_18_for_equal_weights() -> None:
    parts = [artifact(i, 10) for i in range(3)]
    error = merge(parts).provenance.merge_errors["linear"]
    A = torch.stack([p.factors["linear.A"].to_dense() for p in parts])
    B = torch.stack([p.factors["linear.B"].to_dense() for p in parts])
    sigma_a = (A - A.mean(0)).pow(2).sum((1, 2)).mean().sqrt()
    sigma_b = (B - B.mean(0)).pow(2).sum((1, 2)).mean().sqrt()
    norm = sum(dense_block(p, "linear") for p in parts).norm()
    assert error.bound == pytest.approx(float(3 * sigma_a * sigma_b / norm))


def test_error_of_merged_parts_counts_their_tasks() -> None:
    """A part of two tasks weighs as its two tasks do."""
    parts = [artifact(i, 10) for i in range(3)]
    twice = merge([merge(parts[:2]), parts[2]])
    pair = merge(parts[:2])
    both, third = dense_block(pair, "linear"), dense_block(parts[2], "linear")
    target = 2 / 3 * both / 2 + third / 3
    found = dense_block(twice, "linear") / 3
    expected = float((target - found).norm() / target.norm())
    assert twice.provenance.merge_errors["linear"].relative == pytest.approx(expected)


def test_all_differences_are_listed_at_once() -> None:
    one, other = artifact(1), artifact(2)
    changed = dict(other.provenance.base.parameters)
    changed["norm.weight"] = ParameterInfo((4,), "cd" * 32)
    provenance = replace(
        other.provenance,
        base=BaseModel("toy2", None, changed),
        output_map=NamedConfig("cls"),
        estimator=NamedConfig("nearest"),
    )
    third = replace(other, provenance=provenance)
    with pytest.raises(MismatchError) as caught:
        merge([one, other, third])
    for word in ("artifact 3", "estimator", "output map", "norm.weight", "toy2"):
        assert word in str(caught.value)
    assert "artifact 2" not in str(caught.value)


def test_a_task_is_not_counted_twice(tmp_path: Path) -> None:
    save_artifact(artifact(1), tmp_path / "one")
    save_artifact(artifact(2), tmp_path / "two")
    one, two = load_artifact(tmp_path / "one"), load_artifact(tmp_path / "two")
    save_artifact(merge([one, two]), tmp_path / "both")
    with pytest.raises(MismatchError, match="counted twice: data1"):
        merge([load_artifact(tmp_path / "both"), one])


def test_only_a_part_can_be_excluded() -> None:
    with pytest.raises(MismatchError, match=r"data3 cannot be excluded.*data1, data2"):
        merge([merge([artifact(1), artifact(2)])], exclude=[artifact(3)])


def test_not_everything_can_be_excluded() -> None:
    with pytest.raises(MismatchError, match="nothing is left"):
        merge([artifact(1)], exclude=[artifact(1)])


def test_merge_and_exclude_survive_the_disk(tmp_path: Path) -> None:
    for i in (1, 2, 3):
        save_artifact(artifact(i, 10 * i, torch.float32), tmp_path / str(i))
    parts = [load_artifact(tmp_path / str(i)) for i in (1, 2, 3)]
    save_artifact(merge(parts), tmp_path / "total")
    others = merge([load_artifact(tmp_path / "total")], exclude=[parts[0]])
    assert_same(others, merge(parts[1:]), rtol=1e-5, atol=1e-6)
    named = [
        source.digest for source in load_artifact(tmp_path / "total").provenance.sources
    ]
    assert named == [part.digest for part in parts]


def test_more_tasks_are_merged_than_files_may_be_open(tmp_path: Path) -> None:
    for number in range(30):
        made = artifact(number, 100 + number)
        save_artifact(made, tmp_path / str(number), storage="float32")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + 10
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        parts = [load_artifact(tmp_path / str(number)) for number in range(30)]
        save_artifact(merge(parts), tmp_path / "total")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert load_artifact(tmp_path / "total").provenance.tasks == 30


def test_dense_factors_are_added_up_in_float64_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def add(tensors: Iterable[Tensor], given: Sequence[float]) -> Tensor:
        total = torch.zeros(3, 3, dtype=torch.float64)
        for tensor, weight in zip(tensors, given, strict=True):
            assert sum(reference() is not None for reference in seen) <= 1
            seen.append(weakref.ref(tensor))
            total += weight * tensor
        return total

    monkeypatch.setattr(factor_sums, "weighted", add)
    factors = [Dense(psd(3, number, torch.float32)) for number in range(5)]
    found = factor_sums.combine(factors, [0.2] * 5).factor.to_dense()
    expected = torch.stack([f.to_dense().double() for f in factors]).mean(0)
    torch.testing.assert_close(found, expected)
    assert len(seen) == 5


def test_factors_that_are_named_and_shared_otherwise_are_merged_by_their_place() -> (
    None
):
    one, other = artifact(1), artifact(2)
    twins = {
        "left": KroneckerBlock("l.weight", None, Layout.ROWS, (("A", "left.B"),)),
        "right": KroneckerBlock("r.weight", None, Layout.ROWS, (("A", "right.B"),)),
    }
    apart = {
        "left": twins["left"].with_factors(["a1", "b1"]),
        "right": twins["right"].with_factors(["a2", "b2"]),
    }
    infos = {n: ParameterInfo((3, 4), "ab" * 32) for n in ("l.weight", "r.weight")}
    matrix = {n: Dense(psd(4 if n[0] in "Aa" else 3, i)) for i, n in enumerate(NAMES)}

    def of(like: Any, blocks: Any) -> Any:
        base = BaseModel("toy", None, infos)
        provenance = replace(like.provenance, base=base)
        return replace(
            like, provenance=provenance, blocks=blocks, factors=HeldFactors(matrix)
        )

    merged = merge([of(one, twins), of(other, apart)])
    for name, theirs in (("left", ("a1", "b1")), ("right", ("a2", "b2"))):
        ((a, b),) = merged.blocks[name].terms
        A = (matrix["A"].matrix + matrix[theirs[0]].matrix) / 2
        B = matrix[f"{name}.B"].matrix + matrix[theirs[1]].matrix
        torch.testing.assert_close(merged.factors[a].to_dense(), A)
        torch.testing.assert_close(merged.factors[b].to_dense(), B)
    assert len(merged.factors) == 4
    assert len(merge([of(one, twins)]).factors) == 3


NAMES = ("A", "left.B", "right.B", "a1", "b1", "a2", "b2")


def test_the_error_of_a_merge_of_nothing_into_something_is_not_zero() -> None:
    """One task has no A and the other no B: the sum is zero, and the merge is not."""
    one, other = artifact(1, 10), artifact(2, 30)
    one = with_factors(one, {"linear.A": Dense(torch.zeros(5, 5).double())})
    other = with_factors(other, {"linear.B": Dense(torch.zeros(3, 3).double())})
    error = merge([one, other]).provenance.merge_errors["linear"]
    assert error.relative == pytest.approx(1)
    assert 1 <= error.bound < 100
    # then the merge is zero, too
    other = with_factors(other, {"linear.A": one.factors["linear.A"]})
    error = merge([one, other]).provenance.merge_errors["linear"]
    assert (error.relative, error.bound) == (0, 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        ("1", 1, False),
        (1, 1.0, True),
        (0, -0.0, True),
        ([1, {"a": 2, "b": 3}], [1.0, {"b": 3, "a": 2}], True),
        (2**53, 2**53 + 1, True),  # as everybody reads them whose numbers are binary64
        (2**53, 2**53 + 2, False),
    ],
)
def test_output_maps_are_the_same_if_their_json_is(
    one: Any, other: Any, same: bool
) -> None:
    parts = [
        replace(
            part,
            provenance=replace(
                part.provenance, output_map=NamedConfig("f", {"normalise": value})
            ),
        )
        for part, value in ((artifact(1), one), (artifact(2), other))
    ]
    if same:
        merge(parts)
    else:
        with pytest.raises(MismatchError, match="output map"):
            merge(parts)
