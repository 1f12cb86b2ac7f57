"""Files for other programs: read by them, and the same again when imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About, export_artifact
from kfac_artifacts.bridges.exports.corda import Corda
from kfac_artifacts.bridges.exports.imatrix import Imatrix
from kfac_artifacts.bridges.exports.kronfluence import Kronfluence
from kfac_artifacts.bridges.exports.memit_npz import MemitNpz
from kfac_artifacts.bridges.exports.quip import Quip
from kfac_artifacts.bridges.imports import kronfluence, memit_npz, quip
from kfac_artifacts.bridges.imports.covariances import Covariances
from kfac_artifacts.errors import MismatchError, PlaceError, SettingsError
from kfac_artifacts.estimate import Inputs, Nearest
from tests.bridges.made import FILES, llama_tokens, tiny_llama
from tests.bridges.oracle import OWN, readout, readout_computed, require_same
from tests.bridges.stand_ins import run_file
from tests.models import EXPERTS, tiny

TOKENS = llama_tokens().numel()
EVERY = [
    MemitNpz(),
    Quip(),
    Corda(),
    Imatrix(arch="llama"),
    Kronfluence(),
]


def network(module: torch.nn.Module) -> kfac.Network:
    def mean(module: torch.nn.Module, batch: kfac.network.Batch) -> Tensor:
        return module(**batch).last_hidden_state.mean(1)

    return kfac.Network(module, kfac.OutputMap(OWN, mean), "tiny/model")


def inputs(module: torch.nn.Module, *, means: bool) -> Artifact:
    examples = kfac.TensorExamples({"input_ids": llama_tokens()}, "texts")
    return kfac.compute(
        network(module),
        examples,
        estimator=Inputs(),
        means=means,
        tables=True,
        allow_few=True,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of the tiny Llama, with their means."""
    path: Path = tmp_path_factory.mktemp("llama") / "it"
    kfac.save_artifact(inputs(tiny_llama(), means=True), path)
    return path


@pytest.fixture(scope="module")
def down(llama: Path) -> Tensor:
    """E[a aᵀ] of the second layer's way down."""
    factor = kfac.load_artifact(llama).factors["layers.1.mlp.down_proj.A"]
    return factor.to_dense()[:-1, :-1]


def test_memit_has_sums_and_counts(llama: Path, down: Tensor, tmp_path: Path) -> None:
    chosen = MemitNpz(modules=("*.down_proj",), prefix="model.", samples=100)
    assert export_artifact(llama, chosen, tmp_path / "stats") == {}
    names = sorted(file.name for file in (tmp_path / "stats").iterdir())
    name = "model.layers.1.mlp.down_proj_float32_mom2_100.npz"
    assert names == [name.replace("1", "0", 1), name]
    found = np.load(tmp_path / "stats" / name, allow_pickle=False)
    assert int(found["mom2.count"]) == TOKENS
    assert int(found["sample_size"]) == 100
    torch.testing.assert_close(torch.from_numpy(found["mom2.mom2"]), TOKENS * down)
    again = memit_npz.MemitNpz().convert(
        tmp_path / "stats", network(tiny_llama()), About(examples=4)
    )
    block = again.blocks["layers.1.mlp.down_proj"]
    assert block.positions == TOKENS
    torch.testing.assert_close(again.factors[block.factors[0]].to_dense(), down)


def test_the_code_of_memit_loads_it(llama: Path, down: Tensor, tmp_path: Path) -> None:
    spec: Any = find_spec("easyeditor")
    if spec is None:
        pytest.skip("easyeditor is not installed")
    place = Path(spec.submodule_search_locations[0])
    stats: Any = run_file("runningstats", place / "util" / "runningstats.py")
    export_artifact(llama, MemitNpz(samples=100), tmp_path / "stats")
    stat = stats.CombinedStat(mom2=stats.SecondMoment())
    file = tmp_path / "stats" / "layers.1.mlp.down_proj_float32_mom2_100.npz"
    loader = stats.tally(stat, torch.ones(1, 12), cache=str(file), sample_size=100)
    assert list(loader) == []  # nothing is to be computed
    torch.testing.assert_close(stat.mom2.moment(), down)


def test_llama_cpp_gets_sums_of_squares_under_its_names(
    llama: Path, down: Tensor, tmp_path: Path
) -> None:
    left = export_artifact(llama, Imatrix(arch="llama"), tmp_path / "it.gguf")
    assert {*left} == {"embed_tokens"}
    reader = gguf.GGUFReader(tmp_path / "it.gguf")
    content = {key: reader.fields[key].contents() for key in reader.fields}
    assert content["general.type"] == "imatrix"
    assert content["imatrix.datasets"] == ["texts"]
    assert content["imatrix.chunk_count"] == 4
    assert content["imatrix.chunk_size"] == TOKENS // 4
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 2 * 7 * 2
    sums = tensors["blk.1.ffn_down.weight.in_sum2"]
    assert [*sums.shape] == [12]
    torch.testing.assert_close(torch.tensor(sums.data), TOKENS * down.diagonal())
    assert tensors["blk.1.ffn_down.weight.counts"].data.tolist() == [TOKENS]


def test_experts_are_counted_one_by_one(tmp_path: Path) -> None:
    assert "qwen3-moe" in EXPERTS
    module = tiny("qwen3-moe", dtype=torch.float32)
    artifact = inputs(module, means=False)
    kfac.save_artifact(artifact, tmp_path / "moe")
    export_artifact(tmp_path / "moe", Imatrix(arch="qwen3moe"), tmp_path / "it.gguf")
    reader = gguf.GGUFReader(tmp_path / "it.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sums = tensors["blk.1.ffn_down_exps.weight.in_sum2"].data
    counts = tensors["blk.1.ffn_down_exps.weight.counts"].data
    own = {
        block.part: (block, artifact.factors[block.factors[0]].diagonal())
        for block in artifact.blocks.values()
        if block.parameters == ("layers.1.mlp.experts.down_proj",)
    }
    assert len(own) == 6
    for part, (block, diagonal) in own.items():
        assert counts[part].tolist() == [block.positions]
        expected = diagonal * block.positions
        torch.testing.assert_close(torch.tensor(sums[part]), expected)
    assert int(counts.sum()) == 2 * TOKENS  # two experts of six for each token


def test_an_architecture_has_to_be_known(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no architecture 'lama'"):
        export_artifact(llama, Imatrix(arch="lama"), tmp_path / "it.gguf")
    with pytest.raises(SettingsError, match="another architecture"):
        export_artifact(llama, Imatrix(arch="mamba"), tmp_path / "it.gguf")
    assert not [*tmp_path.iterdir()]


def test_quip_has_what_its_own_code_wrote(llama: Path, tmp_path: Path) -> None:
    left = export_artifact(llama, Quip(), tmp_path / "hessians")
    assert {*left} == {"embed_tokens"}
    names = {file.name for file in (FILES / "quip").iterdir()}
    assert {file.name for file in (tmp_path / "hessians").iterdir()} == names
    for name in names:
        ours, theirs = (
            torch.load(folder / name, weights_only=True)
            for folder in (tmp_path / "hessians", FILES / "quip")
        )
        assert ours.keys() == theirs.keys()
        assert (ours["n"], ours["ct"]) == (theirs["n"], theirs["ct"])
        for key in ("flatH", "mu"):
            assert ours[key].dtype == theirs[key].dtype
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6)


def test_without_means_there_are_no_centred_covariances(tmp_path: Path) -> None:
    kfac.save_artifact(inputs(tiny_llama(), means=False), tmp_path / "it")
    with pytest.raises(MismatchError, match="has no mean of its inputs"):
        export_artifact(tmp_path / "it", Quip(), tmp_path / "hessians")
    assert not (tmp_path / "hessians").exists()


def test_kronfluence_has_what_it_wrote_itself(tmp_path: Path) -> None:
    made = FILES / "kronfluence" / "kfac"
    kfac.save_artifact(readout_computed(), tmp_path / "it")
    assert export_artifact(tmp_path / "it", Kronfluence(), tmp_path / "out") == {}
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {file.name for file in made.glob("*.safetensors")}
    for name in files:
        ours, theirs = load_file(tmp_path / "out" / name), load_file(made / name)
        assert ours.keys() == theirs.keys()
        for module, values in theirs.items():
            assert ours[module].dtype == values.dtype
            torch.testing.assert_close(ours[module], values, rtol=1e-4, atol=1e-5)
    told = About(output_map=OWN, examples=7)
    again = kronfluence.Kronfluence().convert(tmp_path / "out", readout(), told)
    require_same(again, readout_computed())


def test_kronfluence_itself_loads_it(tmp_path: Path) -> None:
    pytest.importorskip("kronfluence")
    from kronfluence.factor.covariance import (  # type: ignore[import-not-found]
        load_covariance_matrices,
    )

    kfac.save_artifact(readout_computed(), tmp_path / "it")
    export_artifact(tmp_path / "it", Kronfluence(), tmp_path / "out")
    found = load_covariance_matrices(tmp_path / "out")
    assert {*found["activation_covariance"]} == {"first", "second", "last"}


def test_a_total_of_several_tasks_is_no_sum_of_one(tmp_path: Path) -> None:
    one, other = readout_computed(), readout_computed(only=("*",))
    other = Artifact(
        other.provenance, other.blocks, other.factors, "sha256:" + "0" * 64
    )
    one = Artifact(one.provenance, one.blocks, one.factors, "sha256:" + "1" * 64)
    kfac.save_artifact(kfac.merge([one, other]), tmp_path / "total")
    with pytest.raises(MismatchError, match="sums of one task"):
        export_artifact(tmp_path / "total", Kronfluence(), tmp_path / "out")


def test_corda_has_a_dictionary_that_comes_back(llama: Path, tmp_path: Path) -> None:
    chosen = Corda(modules=("*_proj",))
    assert export_artifact(llama, chosen, tmp_path / "cov.pt") == {}
    found = torch.load(tmp_path / "cov.pt", weights_only=True)
    assert len(found) == 14
    again = Covariances(positions=TOKENS).convert(
        tmp_path / "cov.pt", network(tiny_llama()), About(examples=4)
    )
    artifact = kfac.load_artifact(llama)
    for name, block in again.blocks.items():
        A = artifact.factors[artifact.blocks[name].factors[0]].to_dense()
        torch.testing.assert_close(
            again.factors[block.factors[0]].to_dense(), A[:-1, :-1]
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft itself
def test_peft_takes_it_in_place_of_a_run_over_data(llama: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import (
        preprocess_corda,
    )

    export_artifact(llama, Corda(modules=("*q_proj",)), tmp_path / "cov.pt")
    model = tiny_llama()
    corda = CordaConfig(covariance_file=str(tmp_path / "cov.pt"), corda_method="kpm")
    config = peft.LoraConfig(
        r=2, init_lora_weights="corda", target_modules=["q_proj"], corda_config=corda
    )
    preprocess_corda(model, config)
    before = tiny_llama()(input_ids=llama_tokens()).last_hidden_state
    adapted = peft.get_peft_model(model, config)
    after = adapted(input_ids=llama_tokens()).last_hidden_state
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("export", EVERY, ids=lambda export: export.name)
def test_what_is_there_is_never_replaced(
    export: Any, llama: Path, tmp_path: Path
) -> None:
    place = tmp_path / "it"
    place.mkdir()
    (place / "mine").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for taken in (file, place):
        with pytest.raises(PlaceError):
            export_artifact(llama, export, taken, allow_unfit=True)
    assert [p.name for p in place.iterdir()] == ["mine"]
    assert file.read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"it", "file"}


def test_what_compression_has_lost_is_refused(llama: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    kfac.save_artifact(
        kfac.load_artifact(llama), small, recipe="low-rank-2", fitness=True
    )
    with pytest.raises(MismatchError, match=r"not fit for memit-npz, .* input inverse"):
        export_artifact(small, MemitNpz(), tmp_path / "stats")
    assert not (tmp_path / "stats").exists()
    export_artifact(small, MemitNpz(), tmp_path / "stats", allow_unfit=True)
    # low rank keeps the diagonal
    export_artifact(small, Imatrix(arch="llama"), tmp_path / "it.gguf")


def test_factors_that_are_no_covariances_of_inputs_are_refused(tmp_path: Path) -> None:
    kfac.save_artifact(readout_computed(Nearest(shrinkage=False)), tmp_path / "it")
    with pytest.raises(MismatchError, match="A is fitted"):
        export_artifact(tmp_path / "it", MemitNpz(), tmp_path / "stats")


def test_a_pattern_of_no_module_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no module is called 'x'"):
        export_artifact(llama, MemitNpz(modules=("x",)), tmp_path / "stats")
    with pytest.raises(SettingsError, match="has an A"):
        export_artifact(llama, MemitNpz(modules=("embed*",)), tmp_path / "stats")


def test_positions_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    torch.save({"second": torch.eye(6)}, tmp_path / "cov.pt")
    artifact = Covariances().convert(tmp_path / "cov.pt", readout(), About(examples=7))
    kfac.save_artifact(artifact, tmp_path / "it")
    with pytest.raises(MismatchError, match="of how many positions"):
        export_artifact(tmp_path / "it", MemitNpz(), tmp_path / "stats")
    assert export_artifact(tmp_path / "it", Corda(), tmp_path / "out.pt") == {}
    assert quip.MODULES  # that format has them, too
    with pytest.raises(MismatchError, match="called like layers"):
        export_artifact(tmp_path / "it", Quip(), tmp_path / "hessians")
