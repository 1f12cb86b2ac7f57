"""What is planned of streaming is what streaming takes."""

from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.estimate import (
    ComputeOptions,
    Effort,
    choose_estimator,
    plan,
    plan_streamed,
)
from kfac_artifacts.estimate.streaming import states
from kfac_artifacts.network import TensorExamples
from kfac_artifacts.sources import (
    blank_examples,
    load_network,
    load_skeleton,
    load_streamed,
)
from tests.computed import compute
from tests.estimate.streamed_run import examples
from tests.language.saved import save_model

COUNT, TOKENS, BATCH = 12, 9, 4


def planned(path: Path, estimator: str) -> Any:
    network = load_skeleton(str(path))
    batch = blank_examples(network, 2, tokens=TOKENS)
    effort = Effort(COUNT, BATCH, 1, choose_estimator(estimator))
    whole = plan(network, batch, effort=effort)
    return whole, plan_streamed(network, batch, whole)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", "LlamaForCausalLM", num_hidden_layers=3)


@pytest.mark.parametrize("estimator", ["inputs", "kfac", "ekfac"])
def test_disk_is_planned_to_the_byte(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    folder, most = tmp_path / "kept", 0
    finish = states.StoredStates.finish

    def noted(self: Any) -> None:
        nonlocal most
        finish(self)
        kept = folder.rglob("*.states")
        most = max(most, sum(file.stat().st_size for file in kept))

    monkeypatch.setattr(states.StoredStates, "finish", noted)
    found = compute(
        load_streamed(path),
        TensorExamples({"input_ids": examples().tensors["input_ids"]}, "texts"),
        estimator=choose_estimator(estimator),
        batch_size=BATCH,
        tables=False,
        options=ComputeOptions(folder),
    )
    _, streamed = planned(path, estimator)
    assert streamed.states == most
    if estimator != "ekfac":  # whose factors are refined ones
        sizes = [found.factors[name].to_dense().nbytes for name in found.factors]
        assert streamed.factors == sum(sizes)
    assert streamed.parts == 5


@pytest.mark.parametrize("estimator", ["inputs", "kfac"])
def test_a_part_takes_less_memory_than_the_whole(path: Path, estimator: str) -> None:
    whole, streamed = planned(path, estimator)
    own = load_network(path).parameters()
    sizes = {n: p.nbytes for n, p in own.items()}
    block = sum(n for name, n in sizes.items() if ".layers.1." in name)
    behind = sizes["lm_head.weight"] + sizes["model.norm.weight"]
    assert streamed.memory.weights in (block, behind)
    assert streamed.memory.peak < whole.memory.peak
    assert streamed.flops.backward == whole.flops.backward
    again = 1 if estimator == "inputs" else 2
    assert streamed.flops.forward == again * whole.flops.forward
    assert streamed.readings == again + 2


def test_a_network_in_memory_has_nothing_to_stream(path: Path) -> None:
    network = load_network(path)
    batch = examples(2).tensors
    with pytest.raises(SettingsError, match="in memory already"):
        plan_streamed(network, batch, plan(network, batch))
