"""Covariances that bergson wrote, against this package's of the same loss."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About
from kfac_artifacts.bridges.imports.bergson import SHARDS, Bergson
from kfac_artifacts.errors import MismatchError, SettingsError, SourceError
from kfac_artifacts.estimate import Ekfac, Estimator, Kfac
from tests.bridges.made import FILES, llama_tokens, tiny_causal_llama
from tests.bridges.oracle import (
    EXACT,
    OWN,
    require_same,
    require_same_products,
)

PATH, TOLD = FILES / "bergson" / "kfac", About(examples=4, output_map=OWN)


def network() -> kfac.Network:
    """f is the loss of an example, one number, so that its one cotangent is 1."""

    def loss(module: nn.Module, batch: kfac.network.Batch) -> Tensor:
        tokens = batch["input_ids"]
        logits = module(**batch).logits[:, :-1]
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return losses.view(len(tokens), -1).sum(1, keepdim=True)

    return kfac.Network(tiny_causal_llama(), kfac.OutputMap(OWN, loss), "tiny/llama")


def compute(estimator: Estimator) -> Artifact:
    tokens = llama_tokens()
    mask = torch.ones_like(tokens)
    mask[:, -1] = 0  # nothing follows it, and so nothing is predicted there
    data = {"input_ids": tokens, "attention_mask": mask}
    only = ("model.layers.*_proj.weight",)
    examples = kfac.TensorExamples(data, "texts")
    return kfac.compute(
        network(),
        examples,
        cotangents=EXACT,
        only=only,
        estimator=estimator,
        allow_few=True,
    )


@pytest.fixture(scope="module")
def computed() -> Artifact:
    return compute(Kfac())


def test_sums_become_a_and_b(computed: Artifact) -> None:
    found = Bergson().convert(PATH, network(), TOLD)
    assert len(computed.blocks) == 14
    require_same(found, computed)
    assert found.provenance.sources[0].cotangents.name == "unknown"


def test_corrected_eigenvalues_are_an_eigen_block(
    computed: Artifact, tmp_path: Path
) -> None:
    found = Bergson().convert(FILES / "bergson" / "ekfac", network(), TOLD)
    require_same_products(found, compute(Ekfac(shrinkage=False)))
    for name, block in found.blocks.items():
        pairs = zip(block.factors[:2], computed.blocks[name].factors, strict=True)
        for factor, own in pairs:
            torch.testing.assert_close(
                found.factors[factor].to_dense(),
                computed.factors[own].to_dense(),
                rtol=1e-3,
                atol=1e-5,
            )
    kfac.save_artifact(found, tmp_path / "found")
    assert all(finding.good for finding in kfac.verify(tmp_path / "found"))


def test_rows_of_several_processes_are_put_together(
    computed: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(PATH, tmp_path / "run")
    for kind in SHARDS:
        whole = load_file(PATH / kind / "shard_0.safetensors")
        halves = [{n: M[: len(M) // 3] for n, M in whole.items()}]
        halves += [{n: M[len(M) // 3 :].contiguous() for n, M in whole.items()}]
        for rank, half in enumerate(halves):
            save_file(half, tmp_path / "run" / kind / f"shard_{rank}.safetensors")
    require_same(Bergson().convert(tmp_path / "run", network(), TOLD), computed)
    (tmp_path / "run" / SHARDS[0] / "shard_0.safetensors").unlink()
    with pytest.raises(SourceError, match="has not all of"):
        Bergson().convert(tmp_path / "run", network(), TOLD)


def test_other_methods_and_experts_are_refused(tmp_path: Path) -> None:
    shutil.copytree(PATH, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text("steps:\n- hessian_cfg:\n    method: kfac\n")
    Bergson().convert(tmp_path / "run", network(), TOLD)
    config.write_text("steps:\n- hessian_cfg:\n    method: shampoo\n")
    with pytest.raises(MismatchError, match="method shampoo, not kfac"):
        Bergson().convert(tmp_path / "run", network(), TOLD)
    config.unlink()
    for kind in SHARDS:
        one = {"layers.0.mlp.experts.0.down_proj": torch.eye(8)}
        save_file(one, tmp_path / "run" / kind / "shard_0.safetensors")
    with pytest.raises(MismatchError, match="is an expert"):
        Bergson().convert(tmp_path / "run", network(), TOLD)


def test_the_number_of_documents_has_to_be_said() -> None:
    with pytest.raises(SettingsError, match="how many examples"):
        Bergson().convert(PATH, network(), About(output_map=OWN))
