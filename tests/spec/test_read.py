"""The page that reads an artifact with numpy alone, as its readers run it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn, randn

import kfac_artifacts as kfac
from tests.artifacts import written_out
from tests.each import for_each

SPEC = Path(__file__).parents[2] / "spec"
VALID = SPEC / "vectors/valid"
CODE = "\n".join(
    re.findall(r"^```python\n(.*?)^```", (SPEC / "read.md").read_text(), re.M | re.S)
)
PAGE: dict[str, Any] = {}
exec(CODE, PAGE)


def is_simple(vector: Path) -> bool:
    """Whether the page says that it reads such an artifact."""
    factors = json.loads((vector / "kfac.json").read_text())["factors"].values()
    structures = {factor["structure"]["name"] for factor in factors}
    storages = {factor["storage"]["name"] for factor in factors}
    return structures <= {"dense", "diagonal"} and "int8" not in storages


SIMPLE = [vector for vector in sorted(VALID.iterdir()) if is_simple(vector)]


@for_each(SIMPLE)
def test_factors_and_drift_are_those_of_the_vectors(vector: Path) -> None:
    wanted = json.loads((vector / "expected.json").read_text())
    manifest, factors = PAGE["read"](vector)
    assert factors.keys() == wanted["factors"].keys()
    for name, matrix in wanted["factors"].items():
        found = written_out(factors[name])
        np.testing.assert_array_equal(found, np.array(matrix, "f4"))
    if not vector.name.startswith("extreme-"):  # float32 has no room for their squares
        tau = {name: np.array(value) for name, value in wanted["tau"].items()}
        drift = PAGE["drift"](manifest, factors, tau)
        assert drift == pytest.approx(wanted["drift"], rel=1e-6)


def test_every_plain_storage_is_among_them() -> None:
    names = {vector.name for vector in SIMPLE}
    assert {"dense-bfloat16", "dense-symmetric-float16", "diagonal-float32"} <= names
    assert {"stacked", "sharded", "columns-with-bias", "merged-1-3"} <= names


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    f = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, batch: m(batch["x"]))
    network = kfac.Network(module, f, "my-model")
    examples = kfac.TensorExamples({"x": randn(64, 3)}, "my-data")
    artifact = kfac.compute(network, examples)
    tau = {name: randn(shape) for name, shape in artifact.parameters.items()}
    kfac.save_artifact(artifact, tmp_path / "a")
    manifest, factors = PAGE["read"](tmp_path / "a")
    for name, factor in artifact.factors.items():
        np.testing.assert_array_equal(factors[name], factor.to_dense().numpy())
    found = PAGE["drift"](manifest, factors, {n: v.numpy() for n, v in tau.items()})
    assert found == pytest.approx(float(artifact.drift(tau)), rel=1e-5)


def test_a_diagonal_of_a_row_for_every_parameter_is_not_written_out(
    tmp_path: Path,
) -> None:
    """Its matrix would take 4 TB, where the artifact has 4 MB."""
    f = kfac.OutputMap(kfac.NamedConfig("f"), lambda m, batch: m(batch["x"]))
    network = kfac.Network(nn.Linear(1000, 1000, bias=False), f, "my-model")
    examples = kfac.TensorExamples({"x": randn(64, 1000)}, "my-data")
    artifact = kfac.compute(
        network, examples, estimator=kfac.choose_estimator("diagonal")
    )
    kfac.save_artifact(artifact, tmp_path / "a")
    words = [sys.executable, "-B", SPEC / "reader.py", tmp_path / "a"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1000000 x 1000000" in done.stdout
    (factor,) = artifact.factors.values()
    norm = float(done.stdout.rpartition("norm ")[2])
    assert norm == pytest.approx(float(factor.diagonal().norm()), rel=1e-5)


def test_a_file_that_was_changed_is_noticed() -> None:
    with pytest.raises(AssertionError):
        PAGE["read"](SPEC / "vectors/invalid/hash-mismatch")


def test_nothing_but_numpy_is_imported(tmp_path: Path) -> None:
    code = f"{CODE}\nimport sys; print({{'torch', 'safetensors'}} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.stdout == "set()\n"


def test_reading_takes_no_more_lines_than_the_page_says() -> None:
    (block, _) = re.findall(
        r"^```python\n(.*?)^```", (SPEC / "read.md").read_text(), re.M | re.S
    )
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 35
