"""Directories that kronfluence wrote, against this package's factors."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.bridges import About, Naming
from kfac_artifacts.bridges.imports.kronfluence import METADATA, Kronfluence
from kfac_artifacts.errors import FormatError, MismatchError, SettingsError
from tests.bridges.made import FILES
from tests.bridges.oracle import (
    OWN,
    ekfac_computed,
    readout,
    readout_computed,
    require_same,
    require_same_products,
)

KFAC, EKFAC = FILES / "kronfluence" / "kfac", FILES / "kronfluence" / "ekfac"
TOLD = About(output_map=OWN)


def test_covariances_are_a_and_b() -> None:
    found = Kronfluence().convert(KFAC, readout(), TOLD)
    require_same(found, readout_computed())
    (source,) = found.provenance.sources
    assert source.data.examples == 7  # by the metadata beside the factors
    assert source.cotangents.name == "unknown"


def test_lambda_is_the_table_of_an_eigen_block(tmp_path: Path) -> None:
    found = Kronfluence().convert(EKFAC, readout(), TOLD)
    assert found.provenance.estimator.name == "ekfac"
    require_same_products(found, ekfac_computed())
    kfac.save_artifact(found, tmp_path / "found")
    assert all(finding.good for finding in kfac.verify(tmp_path / "found"))
    require_same_products(kfac.load_artifact(tmp_path / "found"), ekfac_computed())


def test_b_of_an_eigen_block_is_a_mean_over_examples() -> None:
    found = Kronfluence().convert(EKFAC, readout(), TOLD)
    plain = readout_computed()
    for name, block in found.blocks.items():
        a, b, _ = block.factors
        for factor, own in ((a, ".A"), (b, ".B")):
            mine = plain.factors[f"{name}{own}"].to_dense()
            assert (found.factors[factor].to_dense() - mine).norm() < 1e-5


def test_eigenvalues_of_other_eigenvectors_are_refused(tmp_path: Path) -> None:
    shutil.copytree(EKFAC, tmp_path / "ekfac")
    file = tmp_path / "ekfac" / "gradient_eigenvalues.safetensors"
    save_file({name: v[:-1] for name, v in load_file(file).items()}, file)
    with pytest.raises(MismatchError, match="not every eigenvector has an eigenvalue"):
        Kronfluence().convert(tmp_path / "ekfac", readout(), TOLD)


def test_f_has_to_be_said() -> None:
    with pytest.raises(SettingsError, match="kronfluence does not tell which function"):
        Kronfluence().convert(KFAC, readout(), About())


def test_without_metadata_the_number_of_examples_has_to_be_said(tmp_path: Path) -> None:
    shutil.copytree(KFAC, tmp_path / "kfac")
    (tmp_path / "kfac" / METADATA).unlink()
    with pytest.raises(SettingsError, match="does not tell how many examples"):
        Kronfluence().convert(tmp_path / "kfac", readout(), TOLD)
    found = Kronfluence().convert(
        tmp_path / "kfac", readout(), About(output_map=OWN, examples=7)
    )
    require_same(found, readout_computed())


def test_names_with_a_prefix_are_found_and_others_renamed() -> None:
    inner = readout()
    outer = kfac.Network(_Wrapped(inner.module), inner.output_map, "tiny/wrapped")
    found = Kronfluence().convert(KFAC, outer, TOLD)
    assert {*found.blocks} == {"body.first", "body.second", "body.last"}
    renames = (("(first|second|last)", r"body.\1"),)
    again = Kronfluence().convert(
        KFAC, outer, About(output_map=OWN, naming=Naming(renames))
    )
    assert again.provenance == found.provenance


def test_two_names_for_one_module_are_refused() -> None:
    naming = Naming((("second", "first"),))
    with pytest.raises(MismatchError, match="first and second are both of first"):
        Kronfluence().convert(KFAC, readout(), About(output_map=OWN, naming=naming))


def test_another_shape_is_refused_with_both_sizes() -> None:
    naming = Naming((("second", "first"), ("first", "second")))
    with pytest.raises(MismatchError, match="A has 5 rows and B 6, but second needs 6"):
        Kronfluence().convert(KFAC, readout(), About(output_map=OWN, naming=naming))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    shutil.copytree(KFAC, tmp_path / "kfac")
    broken = tmp_path / "kfac" / "gradient_covariance.safetensors"
    broken.write_bytes(broken.read_bytes()[:-4])
    with pytest.raises(FormatError, match=r"gradient_covariance\.safetensors cannot"):
        Kronfluence().convert(tmp_path / "kfac", readout(), TOLD)


class _Wrapped(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)
