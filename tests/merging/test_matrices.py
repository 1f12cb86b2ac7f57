"""TSV-Merge, Iso-C, Iso-CTS and ACTMat beside the authors' steps, in numpy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import kfac_artifacts as kfac
from tests.merging.vectors import drawn, merged

Matrix = np.ndarray[Any, Any]


def procrustes(x: Matrix) -> Matrix:
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def tsv(taus: Sequence[Matrix]) -> Matrix:
    """``compute_and_sum_svd_mem_reduction`` of task_singular_vectors."""
    parts = [np.linalg.svd(t, full_matrices=False) for t in taus]
    rank = int(min(taus[0].shape) / len(taus))
    u = np.hstack([p[0][:, :rank] for p in parts])
    s = np.hstack([p[1][:rank] for p in parts])
    vt = np.vstack([p[2][:rank] for p in parts])
    return procrustes(u) @ np.diag(s) @ procrustes(vt)


def iso_c(taus: Sequence[Matrix]) -> Matrix:
    """``iso_c`` of iso-merging."""
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    return s.mean() * u @ vt


def iso_cts(taus: Sequence[Matrix], fraction: float) -> Matrix:
    """``iso_cts`` of iso-merging."""
    most, tasks = min(taus[0].shape), len(taus)
    common = int(most * fraction)
    common = most - round((most - common) / tasks) * tasks
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    u, s, vt = u[:, :common], s[:common], vt[:common]
    own = int((most - common) / tasks)
    rests = [np.linalg.svd(t - u @ u.T @ t, full_matrices=False) for t in taus]
    all_u = np.hstack([*(r[0][:, :own] for r in rests), u])
    all_s = np.hstack([*(r[1][:own] for r in rests), s])
    all_vt = np.vstack([*(r[2][:own] for r in rests), vt])
    return all_s.mean() * procrustes(all_u) @ procrustes(all_vt)


def actmat(taus: Sequence[Matrix], centred: bool = False) -> Matrix:
    """``merge_actmat`` and the covariance of ``merge_ace`` of actmat."""
    seen = [t - centred * t.mean(0, keepdims=True) for t in taus]
    covariances = [x.T @ x for x in seen]
    pulled = sum(t @ c for t, c in zip(taus, covariances, strict=True))
    return pulled @ np.linalg.pinv(sum(covariances))


CASES: dict[str, tuple[Any, Callable[..., Matrix]]] = {
    "tsv": ("tsv", tsv),
    "iso-c": ("iso-c", iso_c),
    "iso-cts": ("iso-cts", lambda taus: iso_cts(taus, 0.8)),
    "iso-cts of half": (kfac.IsoCts(common_share=0.5), lambda taus: iso_cts(taus, 0.5)),
    "iso-cts of all": (kfac.IsoCts(common_share=1.0), iso_c),
    "actmat": ("actmat", actmat),
    "actmat, centred": (kfac.Actmat(centred=True), lambda t: actmat(t, centred=True)),
    "actmat of columns": (
        kfac.Actmat(columns=("nothing", "w*")),
        lambda taus: actmat([t.T for t in taus]).T,
    ),
}


@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (7, 16)])
@pytest.mark.parametrize("tasks", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_matrix_is_merged_as_the_authors_code_does(
    case: str, tasks: int, shape: tuple[int, int]
) -> None:
    method, reference = CASES[case]
    vectors = drawn(tasks, {"w1": shape}, seed=tasks)
    wanted = reference([v.tensors["w1"].double().numpy() for v in vectors])
    found = merged(vectors, method)["w1"].double().numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


def test_a_smaller_rank_share_keeps_fewer_singular_values_of_each() -> None:
    vectors = drawn(2, {"w": (10, 8)})
    found = merged(vectors, kfac.Tsv(rank_share=0.25))["w"]
    assert torch.linalg.matrix_rank(found) == 4
    wanted = [np.linalg.svd(v.tensors["w"].numpy())[1][:2] for v in vectors]
    full = merged(vectors, "tsv")["w"]
    assert torch.linalg.matrix_rank(full) == 8
    assert float(found.norm()) <= np.linalg.norm(np.concatenate(wanted)) * (1 + 1e-5)


def test_iso_cts_never_takes_more_directions_than_there_are() -> None:
    vectors = drawn(3, {"w": (2, 6)})  # two thirds of a direction each are none
    found = merged(vectors, kfac.IsoCts(common_share=0.0))["w"]
    torch.testing.assert_close(found, merged(vectors, "iso-c")["w"])


def test_orthogonal_tasks_are_added_by_tsv_without_any_loss() -> None:
    a, b = torch.zeros(6, 6), torch.zeros(6, 6)
    a[:3, :3], b[3:, 3:] = torch.randn(3, 3), torch.randn(3, 3)
    vectors = drawn(2, {"w": (6, 6)})
    for v, block in zip(vectors, (a, b), strict=True):
        v.tensors["w"].copy_(block)
    torch.testing.assert_close(merged(vectors, "tsv")["w"], a + b, rtol=0, atol=1e-5)


def test_actmat_leaves_tables_of_tokens_to_the_mean() -> None:
    vectors = drawn(2, {"tokens": (20_000, 2), "places": (19_999, 2)})
    found = merged(vectors, "actmat")
    mean = {n: (vectors[0].tensors[n] + vectors[1].tensors[n]) / 2 for n in found}
    torch.testing.assert_close(found["tokens"], mean["tokens"])
    assert not torch.allclose(found["places"], mean["places"], atol=1e-3)


def test_a_matrix_without_room_for_every_task_gets_the_mean() -> None:
    taus = drawn(3, {"w": (2, 7), "v": (6, 7)})
    total = merged(taus, kfac.Tsv())
    mean = sum(tau.tensors["w"] for tau in taus) / 3
    torch.testing.assert_close(total["w"], mean)
    assert kfac.Tsv()(taus, [1.0] * 3).averaged == ("w",)
    assert kfac.Tsv()(taus[:2], [1.0] * 2).averaged == ()
