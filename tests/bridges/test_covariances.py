"""Dictionaries of covariances of inputs, in the files that people keep them in."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About
from kfac_artifacts.bridges.files import read_npz
from kfac_artifacts.bridges.imports.covariances import Covariances
from kfac_artifacts.errors import FormatError, MismatchError, SettingsError
from tests.bridges.oracle import inputs_computed, readout, require_same

SEEN = About(examples=7)
Save = Callable[[dict[str, Tensor], Path], Path]


def with_torch(tensors: dict[str, Tensor], folder: Path) -> Path:
    torch.save(tensors, folder / "cov.pt")
    return folder / "cov.pt"


def with_safetensors(tensors: dict[str, Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "cov.safetensors")
    return folder / "cov.safetensors"


def with_numpy(tensors: dict[str, Tensor], folder: Path) -> Path:
    arrays = {name: values.numpy() for name, values in tensors.items()}
    np.savez_compressed(folder / "cov.npz", **arrays)
    return folder / "cov.npz"


@pytest.fixture(scope="module")
def computed() -> Artifact:
    return inputs_computed()


def dictionary(artifact: Artifact) -> dict[str, Tensor]:
    return {n: artifact.factors[f"{n}.A"].to_dense() for n in artifact.blocks}


@pytest.mark.parametrize("save", [with_torch, with_safetensors, with_numpy])
def test_means_come_back(save: Save, computed: Artifact, tmp_path: Path) -> None:
    path = save(dictionary(computed), tmp_path)
    found = Covariances().convert(path, readout(), SEEN)
    for name in computed.blocks:
        torch.testing.assert_close(
            found.factors[f"{name}.A"].to_dense(), dictionary(computed)[name]
        )
    assert found.provenance.estimator.name == "inputs"
    assert {block.positions for block in found.blocks.values()} == {None}
    kfac.save_artifact(found, tmp_path / "found")
    assert all(finding.good for finding in kfac.verify(tmp_path / "found"))


def test_sums_are_divided_by_the_positions(computed: Artifact, tmp_path: Path) -> None:
    sums = {n: 21 * A for n, A in dictionary(computed).items() if n != "last"}
    chosen = Covariances(positions=21, sums=True)
    found = chosen.convert(with_torch(sums, tmp_path), readout(), SEEN)
    require_same(found, computed, ["first", "second"])
    with pytest.raises(SettingsError, match="of how many positions"):
        Covariances(sums=True).convert(tmp_path / "cov.pt", readout(), SEEN)


def test_without_the_row_of_a_bias_the_bias_is_not_covered(
    computed: Artifact, tmp_path: Path
) -> None:
    bare = {"first.weight": dictionary(computed)["first"][:-1, :-1].contiguous()}
    found = Covariances().convert(with_torch(bare, tmp_path), readout(), SEEN)
    assert {*found.parameters} == {"first.weight"}
    assert "first.bias" in found.provenance.uncovered


def test_a_row_for_a_bias_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = with_torch({"second": torch.eye(7)}, tmp_path)
    with pytest.raises(MismatchError, match=r"A has 7 rows .* second needs 6 and 5"):
        Covariances().convert(path, readout(), SEEN)


def test_what_is_not_symmetric_is_not_written(tmp_path: Path) -> None:
    matrix = torch.eye(6)
    matrix[0, 1] = 1
    path = with_torch({"second": matrix}, tmp_path)
    found = Covariances().convert(path, readout(), SEEN)
    with pytest.raises(FormatError, match=r"second\.A"):
        kfac.save_artifact(found, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_damage_behind_the_headers_is_found_when_it_is_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    path = with_numpy({"it": torch.randn(64, 64, generator=generator)}, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    found = read_npz(path)["it"]
    assert found.shape == (64, 64)
    with pytest.raises(FormatError, match=r"cov\.npz cannot be read"):
        found.get()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def hostile(folder: Path) -> dict[str, Path]:
    """Files that must be refused, each by what is wrong with it."""
    paths = {name: folder / f"{name}.pt" for name in ("code", "old", "wide", "text")}
    torch.save({"second": Evil()}, paths["code"])
    torch.save(
        {"second": torch.eye(6)}, paths["old"], _use_new_zipfile_serialization=False
    )
    torch.save({"second": torch.ones(1).expand(6, 6)}, paths["wide"])
    torch.save({"second": "a text"}, paths["text"])
    paths["packed"] = folder / "packed.pt"
    with (
        zipfile.ZipFile(with_torch({"second": torch.eye(6)}, folder)) as plain,
        zipfile.ZipFile(paths["packed"], "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    paths["objects"] = folder / "objects.npz"
    np.savez(paths["objects"], second=np.array([Evil()], dtype=object))
    paths["bare"] = folder / "bare.pt"
    paths["bare"].write_bytes(pickle.dumps({"second": torch.eye(6)}))
    return paths


HOSTILE = ("code", "old", "wide", "text", "packed", "objects", "bare")


@pytest.mark.parametrize("name", HOSTILE)
def test_files_of_strangers_run_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile(tmp_path)[name]
    with pytest.raises(FormatError, match=name):
        Covariances().convert(path, readout(), SEEN)
    assert "run" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # by torch itself
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.eye(6), 0.1, 0, torch.qint8)
    torch.save({"second": quantised}, tmp_path / "q.pt")
    with pytest.raises(FormatError, match="no name of a dense tensor"):
        Covariances().convert(tmp_path / "q.pt", readout(), SEEN)
