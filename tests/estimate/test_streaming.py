"""A streamed network has the curvature of the same network in memory, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
from kfac_artifacts.errors import CoverageError, KfacError, MismatchError, SettingsError
from kfac_artifacts.estimate import (
    ComputeOptions,
    GaussianNoise,
    Kfac,
    choose_estimator,
)
from kfac_artifacts.estimate.streaming.chain import find_chain
from kfac_artifacts.network import Batch, Network, OutputMap, TensorExamples
from kfac_artifacts.sources import load_network, load_streamed
from kfac_artifacts.sources.calling import call
from tests.computed import compute
from tests.estimate.streamed_run import BATCH, examples
from tests.language.saved import save_model
from tests.models import EXPERTS, image_batch, save_tiny_bert, save_tiny_vit, tiny
from tests.running import PATIENCE
from tests.sources.families import save

THREE = {"num_hidden_layers": 3}
SAVED = {
    "llama": ("LlamaForCausalLM", THREE),
    "tied": ("LlamaForCausalLM", THREE | {"tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 3}),
    "bloom": ("BloomForCausalLM", {"n_layer": 3}),  # blocks give attention, too
    "mpt": ("MptForCausalLM", {"n_layers": 3}),
    "classifier": ("BertForSequenceClassification", THREE),
    "masked": ("BertForMaskedLM", THREE),
}
MAPS = {"classifier": "logits-fisher", "masked": "lm-fisher"}


@pytest.fixture(scope="module", params=[*SAVED, "pooled"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Path]:
    return request.param, _saved(tmp_path_factory.mktemp("models"), request.param)


def _saved(path: Path, name: str) -> Path:
    if name == "pooled":
        return save_tiny_bert(path / name)
    kind, options = SAVED[name]
    return save_model(path / name, kind, **options)


def both(
    name: str, path: Path, checkpoint: Path | None = None, **options: Any
) -> tuple[Artifact, Artifact]:
    """The curvature in memory, and streamed."""
    options = {"batch_size": BATCH} | options
    asked = MAPS.get(name)
    whole = compute(load_network(path, output_map=asked), examples(), **options)
    network = load_streamed(path, output_map=asked)
    job = ComputeOptions(checkpoint)
    return whole, compute(network, examples(), options=job, **options)


def assert_same(found: Artifact, expected: Artifact) -> None:
    assert list(found.blocks.items()) == list(expected.blocks.items())
    assert found.provenance == expected.provenance
    order = [[*each.provenance.uncovered] for each in (found, expected)]
    assert order[0] == order[1]
    assert set(found.factors) == set(expected.factors)
    for name, factor in expected.factors.items():
        assert type(found.factors[name]) is type(factor)
        assert torch.equal(found.factors[name].to_dense(), factor.to_dense()), name


@pytest.mark.parametrize("estimator", ["inputs", "kfac", "ekfac"])
def test_streamed_curvature_is_the_same_bit_for_bit(
    saved: tuple[str, Path], tmp_path: Path, estimator: str
) -> None:
    chosen = choose_estimator(estimator)
    whole, streamed = both(*saved, tmp_path / "kept", estimator=chosen)
    assert_same(streamed, whole)


@pytest.mark.parametrize("estimator", ["inputs", "kfac"])
@pytest.mark.parametrize("architecture", EXPERTS)
def test_experts_stream_although_loading_stacks_them(
    tmp_path: Path, architecture: str, estimator: str
) -> None:
    save(tmp_path / "model", tiny(architecture, dtype=torch.float32))
    chosen = choose_estimator(estimator)
    whole, streamed = both("", tmp_path / "model", tmp_path / "kept", estimator=chosen)
    assert any("experts" in name for name in whole.parameters)
    assert_same(streamed, whole)


@pytest.mark.parametrize("estimator", ["kfac-reduce", "nearest", "diagonal"])
def test_every_other_estimator_streams_as_well(tmp_path: Path, estimator: str) -> None:
    chosen = choose_estimator(estimator)
    path = _saved(tmp_path, "llama")
    whole, streamed = both("llama", path, estimator=chosen, tables=False)
    assert_same(streamed, whole)


@pytest.mark.parametrize(
    "cotangents", [Cotangents("exact", None, 0), Cotangents("labels", 3, 0)], ids=str
)
def test_several_cotangents_go_back_through_every_block(
    tmp_path: Path, cotangents: Cotangents
) -> None:
    path = _saved(tmp_path, "classifier")
    whole, streamed = both("classifier", path, tmp_path / "kept", cotangents=cotangents)
    assert_same(streamed, whole)


def test_records_that_do_not_fit_are_made_anew_block_by_block(tmp_path: Path) -> None:
    small = choose_estimator("ekfac", memory=3000)
    whole, streamed = both("llama", _saved(tmp_path, "llama"), estimator=small)
    assert_same(streamed, whole)


@pytest.mark.parametrize("estimator", ["inputs", "kfac"])
def test_only_the_blocks_that_are_asked_for_are_covered(
    tmp_path: Path, estimator: str
) -> None:
    whole, streamed = both(
        "llama",
        _saved(tmp_path, "llama"),
        tmp_path / "kept",
        estimator=choose_estimator(estimator),
        only=("model.layers.1.*",),
        means=True,
    )
    assert_same(streamed, whole)


def test_images_stream_as_texts_do(tmp_path: Path) -> None:
    path = save_tiny_vit(tmp_path / "vit")
    data = TensorExamples(image_batch(8), "images")
    found = [
        compute(load(path), data, batch_size=3)
        for load in (load_network, load_streamed)
    ]
    assert_same(found[1], found[0])


def test_half_precision_is_that_of_the_whole_network(tmp_path: Path) -> None:
    path = _saved(tmp_path, "llama")
    found = [
        compute(load(path, dtype="bfloat16"), examples(), batch_size=BATCH)
        for load in (load_network, load_streamed)
    ]
    assert_same(found[1], found[0])


def test_no_weight_stays_in_memory_behind_a_run(tmp_path: Path) -> None:
    network = load_streamed(_saved(tmp_path, "tied"))
    compute(network, examples(), batch_size=BATCH)
    assert {p.device.type for p in network.module.parameters()} == {"meta"}
    head, table = network.module.lm_head, network.module.model.embed_tokens
    assert head.weight is table.weight


@pytest.mark.parametrize(
    ("estimator", "killed_in", "done"),
    [
        ("inputs", "block 2/3, summing up", "block 1/3, summing up"),
        ("kfac", "block 2/3, going forward", "block 1/3, going forward"),
        ("kfac", "block 2/3, summing up", "block 3/3, summing up"),
    ],
)
@pytest.mark.processes
def test_a_killed_run_goes_on_behind_the_last_part_that_was_done(
    tmp_path: Path, estimator: str, killed_in: str, done: str
) -> None:
    path, kept = _saved(tmp_path, "llama"), tmp_path / "kept"
    command = [sys.executable, "-m", "tests.estimate.streamed_run"]
    arguments = [str(path), str(kept), estimator, killed_in]
    killed = subprocess.run([*command, *arguments], timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL
    stages: list[str] = []

    @contextmanager
    def noting(stage: str, total: int) -> Iterator[Any]:
        stages.append(stage)
        yield lambda _: None

    chosen = choose_estimator(estimator)
    found = compute(
        load_streamed(path),
        examples(),
        estimator=chosen,
        batch_size=BATCH,
        options=ComputeOptions(kept, resume=True),
        progress=noting,
    )
    assert killed_in in stages
    assert done not in stages
    whole = compute(load_network(path), examples(), estimator=chosen, batch_size=BATCH)
    assert_same(found, whole)


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    path, kept = _saved(tmp_path, "llama"), tmp_path / "kept"
    compute(
        load_streamed(path),
        examples(),
        batch_size=BATCH,
        options=ComputeOptions(kept),
    )
    job = ComputeOptions(kept, resume=True)
    for batch_size, load in ((BATCH + 1, load_streamed), (BATCH, load_network)):
        with pytest.raises(MismatchError, match="--resume"):
            compute(load(path), examples(), batch_size=batch_size, options=job)


LARGE = {
    "num_hidden_layers": 16,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "head_dim": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmHWM here")
def test_a_model_takes_the_memory_of_one_block(tmp_path: Path) -> None:
    path = save_model(tmp_path / "large", "LlamaForCausalLM", **LARGE)
    weights = (path / "model.safetensors").stat().st_size
    command = [sys.executable, "-m", "tests.estimate.streamed_run", str(path)]
    run = subprocess.run(
        [*command, str(tmp_path / "kept"), "inputs"],
        timeout=PATIENCE,
        check=True,
        capture_output=True,
    )
    found = json.loads(run.stdout)
    assert found["grown"] < 0.3 * (weights + found["factors"])


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmData here")
def test_what_reads_tables_asks_for_no_memory_that_nobody_uses() -> None:
    code = (
        "import kfac_artifacts.sources.silence_libraries, pathlib; "
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={k: v for k, v in os.environ.items() if not k.startswith("ARROW_")}
        | {"OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
        check=True,
        capture_output=True,
        text=True,
    )
    line = next(x for x in run.stdout.splitlines() if x.startswith("VmData"))
    assert int(line.split()[1]) * 1024 < 2**29  # Arrow's arena alone has 2**30


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmHWM here")
def test_stacks_of_experts_are_not_made_while_loading(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    for name, options in (("small", {}), ("large", sizes)):
        model = tiny("mixtral", dtype=torch.float32, **options)
        save(tmp_path / name, model)
    weights = (tmp_path / "large" / "model.safetensors").stat().st_size
    command = [sys.executable, "-m", "tests.estimate.loading_run"]
    run = subprocess.run(
        [*command, tmp_path / "small", tmp_path / "large"],
        timeout=PATIENCE,
        check=True,
        capture_output=True,
    )
    assert int(run.stdout) < 0.2 * weights


def test_an_f_that_reads_padding_loses_the_layers_that_it_loses_in_memory(
    tmp_path: Path,
) -> None:
    path = save_tiny_bert(tmp_path / "bert")
    f = OutputMap(
        NamedConfig("org.example/all"),
        lambda module, batch: module(**batch).last_hidden_state.flatten(1),
    )
    whole, streamed = (
        compute(replace(load(path), output_map=f), examples(), batch_size=BATCH)
        for load in (load_network, load_streamed)
    )
    assert "hides" in whole.provenance.uncovered["encoder.layer.0.output.dense.weight"]
    assert_same(streamed, whole)


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        (
            "t5-both",
            {"layers": 2},
            "encoder.block.1 is given more that depends on weights",
        ),
        ("mpnet", {}, "encoder.layer.0 is given more that depends on weights"),
    ],
)
def test_what_goes_past_the_hidden_state_is_refused_by_name(
    tmp_path: Path, architecture: str, options: dict[str, int], words: str
) -> None:
    path = tmp_path / "model"
    save(path, tiny(architecture, dtype=torch.float32, **options))
    with pytest.raises(KfacError, match=words) as caught:
        compute(load_streamed(path), examples())
    assert "without --stream" in str(caught.value)


class Twofold(nn.Module):
    """A block that gives more than its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, device="meta"))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, None]:
        return self.weight * hidden, self.weight + hidden, None


class Tower(nn.Module):
    """Blocks one after another, of which one gives f more than a hidden state."""

    def __init__(self, taken: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Twofold() for _ in range(3)])
        self.taken = taken

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for number, block in enumerate(self.blocks):
            x, more, _ = block(x)
            if number == self.taken:
                total = total + more
        return x + total


def tower(taken: int | None) -> Network:
    f = OutputMap(NamedConfig("f"), lambda m, batch: m(batch["x"]))
    return Network(Tower(taken), f, "x")


@pytest.mark.parametrize("taken", range(3))
def test_a_block_of_which_f_takes_more_is_refused(taken: int) -> None:
    with pytest.raises(SettingsError, match=rf"f takes more of blocks\.{taken}"):
        find_chain(tower(taken), {"x": torch.ones(2, 2)})


def test_what_blocks_give_besides_may_be_what_nobody_takes() -> None:
    chain = find_chain(tower(None), {"x": torch.ones(2, 2)})
    assert chain.lengths == (3, 3, 3)
    assert all(len(names) == 1 for names in chain.inside)


class Looking(nn.Module):
    """A network that looks at a number on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.sum().item()


def test_a_model_that_needs_numbers_to_run_is_refused_by_name() -> None:
    f = OutputMap(NamedConfig("f"), call)
    words = r"x \(Looking\) cannot be streamed block by block: .*without --stream"
    with pytest.raises(SettingsError, match=words):
        find_chain(Network(Looking(), f, "x"), {"x": torch.ones(2, 2)})


def test_blocks_that_share_weights_are_refused_by_name(tmp_path: Path) -> None:
    network = load_streamed(_saved(tmp_path, "llama"))
    layers = network.module.model.layers
    layers[2] = layers[1]
    with pytest.raises(SettingsError, match=r"model\.layers"):
        compute(network, examples())


def test_an_f_of_the_batch_is_refused_as_in_memory(tmp_path: Path) -> None:
    path = save_tiny_bert(tmp_path / "bert")

    def centred(module: nn.Module, batch: Batch) -> Tensor:
        pooled = module(**batch).last_hidden_state[:, 0]
        return pooled - 0.5 * pooled.mean(0)

    f = OutputMap(NamedConfig("org.example/centred"), centred)
    for load in (load_network, load_streamed):
        with pytest.raises(CoverageError, match="centred' depends on the batch: of ex"):
            compute(replace(load(path), output_map=f), examples(), batch_size=BATCH)


def test_f_by_itself_is_refused_as_weights_are_not_there(tmp_path: Path) -> None:
    network = load_streamed(_saved(tmp_path, "llama"))
    with pytest.raises(SettingsError, match="--pack"):
        network(examples().batch([0]))


def test_noise_is_refused_as_it_needs_all_layers_at_once(tmp_path: Path) -> None:
    network = load_streamed(_saved(tmp_path, "llama"))
    noise = GaussianNoise(1.0, 1e-3, examples())
    with pytest.raises(SettingsError, match="noise"):
        compute(network, examples(), estimator=Kfac(noise=noise))
