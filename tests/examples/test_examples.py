"""The examples run as a reader runs them, and what they print is true."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn, randn

import kfac_artifacts as kfac
from tests.examples import continual, laplace, own_loop, own_model, read_with_numpy

HERE = Path(__file__).parent


def test_an_own_model_moves_as_far_as_its_artifact_predicts(tmp_path: Path) -> None:
    found = own_model.main(tmp_path)
    assert found["predicted"] == pytest.approx(found["true"], rel=0.2)


def test_an_own_loop_gains_by_the_penalty() -> None:
    losses = own_loop.main()
    assert losses["30"] < 0.6 * losses["0"]


def test_laplace_is_unsure_where_there_are_no_data() -> None:
    deviations = laplace.main()
    assert deviations["outside"] > 10 * deviations["inside"]


def test_continual_training_keeps_the_first_task() -> None:
    kept = continual.main()
    assert kept["0"] < 0.8
    assert kept["0.3"] > 0.95


def test_numpy_reads_what_the_library_reads(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    f = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, batch: m(batch["x"]))
    network = kfac.Network(module, f, "my-model")
    examples = kfac.TensorExamples({"x": randn(64, 3)}, "my-data")
    artifact = kfac.compute(network, examples)
    for storage in ("float32", "symmetric-float32"):
        kfac.save_artifact(artifact, tmp_path / storage, storage=storage)
        found = read_with_numpy.main(tmp_path / storage)
        assert found.keys() == artifact.factors.keys()
        for name, factor in artifact.factors.items():
            np.testing.assert_array_equal(found[name], factor.to_dense().numpy())


def test_numpy_reads_without_torch(tmp_path: Path) -> None:
    code = (
        f"import sys, runpy; runpy.run_path({str(HERE / 'read_with_numpy.py')!r}); "
        "print({'torch', 'kfac_artifacts'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.stdout == "set()\n"
