"""Hessians that the code of QuIP# wrote, against this package's inputs."""

from pathlib import Path

import pytest
import torch

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About
from kfac_artifacts.bridges.imports.quip import MODULES, Quip
from kfac_artifacts.errors import FormatError, SourceError
from kfac_artifacts.estimate import Inputs
from tests.bridges.made import FILES, llama_tokens, tiny_llama
from tests.bridges.oracle import OWN, require_same

PATH, SEEN = FILES / "quip", About(examples=4)


def llama() -> kfac.Network:
    """The tiny Llama; f is a mean over positions."""

    def mean(module: torch.nn.Module, batch: kfac.network.Batch) -> torch.Tensor:
        return module(**batch).last_hidden_state.mean(1)

    return kfac.Network(tiny_llama(), kfac.OutputMap(OWN, mean), "tiny/llama")


@pytest.fixture(scope="module")
def computed() -> Artifact:
    examples = kfac.TensorExamples({"input_ids": llama_tokens()}, "texts")
    estimator = Inputs()
    return kfac.compute(
        llama(), examples, estimator=estimator, means=True, allow_few=True
    )


@pytest.fixture(scope="module")
def imported() -> Artifact:
    return Quip().convert(PATH, llama(), SEEN)


def test_covariances_are_no_longer_centred_and_means_are_kept(
    imported: Artifact, computed: Artifact
) -> None:
    names = [n for n in computed.blocks if n.startswith("layers.")]
    assert len(names) == 2 * 7
    require_same(imported, computed, names)
    assert all(imported.blocks[name].constant for name in names)  # type: ignore[attr-defined]


def test_maps_of_one_input_share_their_a(imported: Artifact) -> None:
    for kind, modules in MODULES.items():
        own = {imported.blocks[f"layers.1.{name}"].factors for name in modules}
        assert len(own) == 1, kind
    assert len(imported.factors) == 2 * len(MODULES)


def test_it_is_written_and_sound(imported: Artifact, tmp_path: Path) -> None:
    kfac.save_artifact(imported, tmp_path / "found")
    assert all(finding.good for finding in kfac.verify(tmp_path / "found"))
    assert imported.provenance.sources[0].cotangents.name == "none"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no files such as"):
        Quip().convert(tmp_path, llama(), SEEN)
    torch.save({"flatH": torch.ones(4), "mu": torch.ones(2)}, tmp_path / "0_o.pt")
    with pytest.raises(FormatError, match="has not flatH, mu, n and ct"):
        Quip().convert(tmp_path, llama(), SEEN)
    short = {"flatH": torch.ones(4), "mu": torch.ones(2), "n": 2, "ct": 3}
    torch.save(short, tmp_path / "0_o.pt")
    with pytest.raises(FormatError, match="not of a matrix of n rows"):
        Quip().convert(tmp_path, llama(), SEEN)
    torch.save(short | {"mu": 1.0}, tmp_path / "0_o.pt")
    with pytest.raises(FormatError, match="'mu' is no name of a dense tensor"):
        Quip().convert(tmp_path, llama(), SEEN)
