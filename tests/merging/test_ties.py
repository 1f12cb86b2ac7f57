"""TIES beside the authors' steps on the whole model at once, in numpy."""

import functools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import kfac_artifacts as kfac
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.task_vector.merging.ties import kth_largest
from tests.merging.vectors import SHAPES, assert_same, drawn, merged, vector


def flat(vectors: list[TaskVector]) -> np.ndarray:
    """The task vectors as rows over all parameters."""
    rows = [torch.cat([v.tensors[n].flatten() for n in SHAPES]) for v in vectors]
    return torch.stack(rows).double().numpy()


def ties(taus: np.ndarray, keep: float) -> np.ndarray:
    """Trim, elect, disjoint mean, as Algorithm 1 of the paper and its code."""
    sizes = np.sort(np.abs(taus), axis=1)[:, ::-1]
    least = sizes[:, int(keep * taus.shape[1]) - 1, None]
    kept = taus * (np.abs(taus) >= least)
    sign = np.sign(kept.sum(0))
    sign[sign == 0] = np.sign(sign.sum())
    selected = kept * np.where(sign > 0, kept > 0, kept < 0)
    return selected.sum(0) / np.clip((selected != 0).sum(0), 1, None)


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("tasks", [2, 5])
def test_it_is_the_papers_algorithm_on_all_parameters_at_once(
    keep: float, tasks: int
) -> None:
    vectors = drawn(tasks)
    # of unlike sizes, so that a threshold per parameter would be another one
    for v in vectors:
        v.tensors["conv"].mul_(3.0)
        v.tensors["up.bias"].mul_(0.01)
    found = torch.cat(
        [t.flatten() for t in merged(vectors, kfac.Ties(keep=keep)).values()]
    )
    wanted = ties(flat(vectors), keep)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(wanted), rtol=1e-5, atol=0
    )
    if keep == 0.05:
        assert np.count_nonzero(wanted) < 0.05 * tasks * wanted.size


def test_mergekit_gives_the_same_of_a_single_tensor() -> None:
    """Its ``magnitude`` and ``get_mask`` (version 0.1.5), which go tensor by tensor."""
    vectors = drawn(4, {"w": (40, 25)})
    deltas = torch.stack([v.tensors["w"] for v in vectors])
    for delta in deltas:
        least = delta.abs().flatten().argsort(descending=True)[300:]
        delta.view(-1)[least] = 0
    majority = (deltas.sum(0) >= 0).to(deltas.dtype) * 2 - 1
    mask = deltas.sign() == majority
    count = mask.sum(0).clamp(min=1)
    wanted = (deltas * mask).sum(0) / count
    assert_same(merged(vectors, kfac.Ties(keep=0.3)), {"w": wanted})


def test_all_numbers_of_one_sign_give_the_mean() -> None:
    vectors = [vector({n: t.abs() for n, t in v.tensors.items()}) for v in drawn(3)]
    mean = {n: sum(v.tensors[n] for v in vectors) / 3 for n in SHAPES}
    assert_same(merged(vectors, kfac.Ties(keep=1.0)), mean)


def test_numbers_that_cancel_take_the_sign_of_most_of_the_model() -> None:
    a, b = torch.tensor([2.0, -3.0, -1.0]), torch.tensor([-2.0, -1.0, 4.0])
    for sign in (1.0, -1.0):
        pair = [vector({"w": sign * a, "v": a[1:2] * sign}), vector({"w": sign * b})]
        found = merged(pair, kfac.Ties(keep=1.0))
        # w is elected ?, -, + and v is elected -: so most are negative
        assert found["w"].tolist() == [sign * -2.0, sign * -2.0, sign * 4.0]
    even = [vector({"w": torch.tensor([1.0])}), vector({"w": torch.tensor([-1.0])})]
    assert merged(even, kfac.Ties(keep=1.0))["w"].tolist() == [0.0]


def test_equal_numbers_are_kept_together() -> None:
    (found,) = merged(
        [vector({"w": torch.tensor([1.0, -1.0, 1.0, 0.5])})], kfac.Ties(keep=0.25)
    ).values()
    assert found.tolist() == [1.0, -1.0, 1.0, 0.0]


def test_large_tensors_are_looked_at_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kfac_artifacts.task_vector.merging.ties.PIECE", 7)
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    assert kth_largest(lambda: [x], 11) == float(x.abs().flatten().sort().values[-11])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, width=32), min_size=0, max_size=30),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_kth_largest_magnitude_is_that_of_the_sorted_numbers(
    lists: list[list[float]], k: int, dtype: torch.dtype
) -> None:
    tensors = [torch.tensor(each, dtype=dtype) for each in lists]

    def give() -> Iterable[Tensor]:
        return iter(tensors)

    wanted = sorted((abs(x) for each in lists for x in each), reverse=True)
    found = kth_largest(functools.partial(give), k)
    assert found == (wanted[k - 1] if k <= len(wanted) else 0.0)
