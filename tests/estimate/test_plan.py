"""Plans against what compute makes, and costs against counts by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kfac_artifacts.artifact import Artifact, Block, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import CoverageError, SettingsError, SourceError
from kfac_artifacts.estimate import Effort, KfacReduce, Nearest, matrix_rate
from kfac_artifacts.estimate.planning.cost import Memory
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.sources import blank_examples, load_network, load_skeleton
from tests.computed import compute, plan
from tests.language.heads import network_of
from tests.models import MODELS, TEXT_MODELS, image_batch, text_batch

TOKENS = text_batch()["input_ids"].shape[1]


def uncounted(artifact: Artifact) -> dict[str, Block]:
    """Blocks as they are known before positions are counted."""
    return {n: block.with_positions(None) for n, block in artifact.blocks.items()}


def _config_only(directory: Path, model: Path) -> str:
    """A directory in which there is no more than the configuration of a model."""
    directory.mkdir()
    (directory / "config.json").write_bytes((model / "config.json").read_bytes())
    return str(directory)


def _skeleton(model: str, kind: str) -> tuple[Network, dict[str, torch.Tensor]]:
    network = load_skeleton(model)
    tokens = TOKENS if kind in TEXT_MODELS else None
    return network, blank_examples(network, 2, tokens=tokens)


@pytest.mark.parametrize("kind", MODELS)
def test_a_plan_is_what_compute_makes(
    tmp_path: Path, saved_model: Callable[[str], Path], kind: str
) -> None:
    batch = text_batch() if kind in TEXT_MODELS else image_batch()
    artifact = compute(load_network(str(saved_model(kind))), TensorExamples(batch, "x"))
    network, blank = _skeleton(_config_only(tmp_path / kind, saved_model(kind)), kind)
    found = plan(network, blank)

    assert {b.name: b.block for b in found.blocks} == uncounted(artifact)
    made = {n: (f.dim, f.name) for n, f in artifact.factors.items()}
    planned = {
        name: (dim, block.structures[name].name)
        for block in found.blocks
        for name, dim in block.dims.items()
    }
    assert planned == made
    uncovered = {n: r for n, r in found.uncovered.items() if "pooler" not in n}
    told = artifact.provenance.uncovered
    assert [*uncovered.items()] == [*told.items()]  # only weights tell of a pooler
    assert set(found.storages) == set(STORAGES)
    for storage, nbytes in found.storages.items():
        save_artifact(artifact, tmp_path / storage, storage=storage)
        tensors = load_file(tmp_path / storage / "factors.safetensors")
        assert nbytes == sum(t.nbytes for t in tensors.values())


def test_patterns_choose_what_is_planned(saved_model: Callable[[str], Path]) -> None:
    network, blank = _skeleton(str(saved_model("bert")), "bert")
    query = "encoder.layer.1.attention.self.query"
    found = plan(network, blank, only=("*.1.attention.self.*",), exclude=("*.key.*",))
    assert [block.name for block in found.blocks] == [
        query,
        query.replace("query", "value"),
    ]
    assert found.blocks[1].block.factors[0] == f"{query}.A"
    assert found.covered == 2 * (8 * 8 + 8)
    assert "encoder.layer.1.attention.self.key.weight" in found.excluded
    with pytest.raises(CoverageError, match=r"no parameter is called 'nothing\.\*'"):
        plan(network, blank, only=("nothing.*",))


def test_the_same_patterns_give_the_same_blocks_as_compute(
    saved_model: Callable[[str], Path],
) -> None:
    only = ("*.attention.*weight", "*LayerNorm*")
    network = load_network(str(saved_model("bert")))
    artifact = compute(network, TensorExamples(text_batch(), "x"), only=only)
    skeleton, blank = _skeleton(str(saved_model("bert")), "bert")
    found = plan(skeleton, blank, only=only)
    assert {b.name: b.block for b in found.blocks} == uncounted(artifact)


def _mlp(
    device: str = "meta", positions: int = 1
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Two linear maps with biases, 4 to 5 to 3, summed over positions."""
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)
    output_map = OutputMap(NamedConfig("sum"), lambda m, b: m(b["x"]).sum(1))
    network = Network(module, output_map, "mlp")
    return network, {"x": torch.zeros(2, positions, 4, device=device)}


@pytest.mark.parametrize("positions", [1, 7])
@pytest.mark.parametrize("passes", [1, 3])
def test_operations_of_a_small_network_are_those_counted_by_hand(
    positions: int, passes: int
) -> None:
    flops = plan(*_mlp(positions=positions), effort=Effort(passes=passes)).flops
    assert flops is not None
    assert flops.forward == positions * 2 * (4 * 5 + 5 * 3)
    assert flops.backward == passes * positions * 2 * 5 * 3  # not before the first map
    assert flops.inputs == positions * (5 * 6 + 6 * 7)
    assert flops.outputs == passes * positions * (5 * 6 + 3 * 4)
    assert flops.total == sum(
        (flops.forward, flops.backward, flops.inputs, flops.outputs)
    )


def test_reduced_factors_take_one_update_per_example() -> None:
    effort = Effort(estimator=KfacReduce(), passes=2)
    flops = plan(*_mlp(positions=7), effort=effort).flops
    assert flops is not None
    assert (flops.inputs, flops.outputs) == (5 * 6 + 6 * 7, 2 * (5 * 6 + 3 * 4))


def test_memory_of_a_small_network_is_that_counted_by_hand() -> None:
    effort = Effort(examples=50, batch_size=10, passes=2, estimator=Nearest())
    memory = plan(*_mlp(positions=7), effort=effort).memory
    numbers = 4 * 5 + 5 + 5 * 3 + 3
    assert memory.weights == 4 * numbers
    assert memory.sums == 4 * (5**2 + 5**2 + 6**2 + 3**2)
    assert memory.activations == 10 * 7 * 5 * 4  # what tanh keeps
    assert memory.records == 50 * 7 * (4 + 2 * 5 + 5 + 2 * 3) * 4
    assert memory.proof == 4 * 3 * numbers + 2 * 7 * 5 * 4


@pytest.mark.parametrize(
    ("memory", "peak"),
    [
        (Memory(weights=5, sums=10, activations=3, records=0, proof=30), 35),
        (Memory(weights=5, sums=10, activations=30, records=2, proof=30), 47),
        (Memory(weights=5, sums=10, activations=None, records=None, proof=1), 15),
    ],
)
def test_the_peak_is_the_most_of_what_is_held_at_once(
    memory: Memory, peak: int
) -> None:
    assert memory.peak == peak


def test_a_shared_input_is_recorded_once(saved_model: Callable[[str], Path]) -> None:
    network, blank = _skeleton(str(saved_model("t5")), "t5")
    only = [f"encoder.block.1.layer.0.SelfAttention.{x}.weight" for x in "qkv"]
    effort = Effort(examples=3, estimator=Nearest())
    found = plan(network, blank, only=only, effort=effort)
    assert found.memory.records == 3 * TOKENS * (8 + 3 * 8) * 4
    assert found.flops is not None
    assert found.flops.inputs == TOKENS * 8 * 9


@pytest.mark.parametrize("kind", MODELS)
def test_forward_operations_are_those_of_the_real_network(
    saved_model: Callable[[str], Path], kind: str
) -> None:
    skeleton, blank = _skeleton(str(saved_model(kind)), kind)
    flops = plan(skeleton, blank).flops
    assert flops is not None
    batch = text_batch() if kind in TEXT_MODELS else image_batch()
    module = type(skeleton.module)(skeleton.module.config)
    network = Network(module, skeleton.output_map, kind)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
        network({name: x for name, x in batch.items() if name != "attention_mask"})
    assert 3 * flops.forward == counter.get_total_flops()


def test_a_network_with_numbers_is_planned_as_one_without() -> None:
    real, without = plan(*_mlp("cpu", 7)), plan(*_mlp("meta", 7))
    assert real == without


class _Choosy(nn.Module):
    """Goes on as its numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if x.sum() > 0 else self.other(x)


def test_a_network_that_needs_numbers_is_planned_from_its_modules_and_says_so() -> None:
    with torch.device("meta"):
        network = Network(
            _Choosy(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "choosy"
        )
    found = plan(network, {"x": torch.zeros(2, 4, device="meta")})
    assert found.untraced is not None
    assert "meta" in found.untraced
    assert [block.name for block in found.blocks] == ["one", "other"]
    assert {block.positions for block in found.blocks} == {None}
    assert (found.flops, found.outputs, found.memory.activations) == (None, None, None)
    assert found.storages["float32"] == 2 * 4 * (5**2 + 3**2)


class _Fused(nn.Module):
    """Uses a weight behind the back of its module, and another one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.fused, self.idle = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x) @ self.fused.weight


def test_what_no_module_call_shows_is_reported_with_a_reason() -> None:
    output_map = OutputMap(NamedConfig("f"), lambda m, b: m(b["x"]))
    with torch.device("meta"):
        network = Network(_Fused(), output_map, "fused")
    found = plan(network, {"x": torch.zeros(2, 4, device="meta")})
    assert [block.name for block in found.blocks] == ["used"]
    assert found.uncovered == {
        "fused.weight": "f uses it without calling its module",
        "fused.bias": "f uses it without calling its module",
        "idle.weight": "f does not depend on it",
        "idle.bias": "f does not depend on it",
    }


def test_what_is_left_out_is_listed_in_the_order_of_the_parameters() -> None:
    network = network_of("BertForMaskedLM", dtype=torch.float32)
    found = plan(network, text_batch(), tables=False)
    names = [name for name in network.parameters() if name in found.uncovered]
    assert [*found.uncovered] == names
    assert "cls.predictions.bias" in names


def test_planning_leaves_the_network_as_it_was(
    saved_model: Callable[[str], Path],
) -> None:
    network, blank = _skeleton(str(saved_model("bert")), "bert")
    network.module.train()
    before = [(p.requires_grad, p.grad, p.shape) for p in network.module.parameters()]
    plan(network, blank)
    after = [(p.requires_grad, p.grad, p.shape) for p in network.module.parameters()]
    assert after == before
    assert all(m.training and not m._forward_hooks for m in network.module.modules())


@pytest.mark.parametrize("wrong", [{"examples": 0}, {"batch_size": 0}, {"passes": -1}])
def test_efforts_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=str(next(iter(wrong.values())))):
        Effort(**wrong)


def test_the_rate_of_matrix_products_is_measured() -> None:
    assert 1e6 < matrix_rate(torch.float32, "cpu", size=64) < 1e15


def test_skeletons_take_no_memory_and_are_of_the_number_type_asked_for(
    saved_model: Callable[[str], Path],
) -> None:
    network = load_skeleton(str(saved_model("vit")), dtype="bfloat16")
    tensors = [*network.module.parameters(), *network.module.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    assert network.dtype is torch.bfloat16
    assert blank_examples(network, 4)["pixel_values"].shape == (4, 3, 8, 8)
    assert blank_examples(network, 4, image_size=16)["pixel_values"].shape[2:] == (
        16,
        16,
    )


def test_a_tower_alone_is_built_from_the_configuration_of_both(
    tmp_path: Path, saved_model: Callable[[str], Path]
) -> None:
    config = json.loads((saved_model("clip") / "config.json").read_text())
    config["architectures"] = ["CLIPVisionModelWithProjection"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = load_skeleton(str(tmp_path))
    assert type(network.module).__name__ == "CLIPVisionModelWithProjection"
    assert plan(network, blank_examples(network, 2)).outputs == 6


def test_texts_are_as_long_as_the_model_takes(
    saved_model: Callable[[str], Path],
) -> None:
    network = load_skeleton(str(saved_model("bert")))
    assert blank_examples(network, 2)["input_ids"].shape == (2, 16)
    with pytest.raises(SourceError, match="tokens 17 is not within 1 and the 16"):
        blank_examples(network, 2, tokens=17)


def test_a_model_without_a_limit_takes_texts_of_any_length(tmp_path: Path) -> None:
    config = {"model_type": "xlnet", "n_layer": 1, "d_model": 8, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    network = load_skeleton(str(tmp_path))
    assert blank_examples(network, 2)["input_ids"].shape == (2, 128)
    assert blank_examples(network, 2, tokens=5000)["input_ids"].shape == (2, 5000)


def test_images_of_unknown_size_must_be_given_one(tmp_path: Path) -> None:
    config = {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"embedding_size": 8}))
    network = load_skeleton(str(tmp_path))
    with pytest.raises(SourceError, match="--image-size"):
        blank_examples(network, 2)
    assert blank_examples(network, 2, image_size=32)["pixel_values"].shape[-1] == 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no config.json"),
        ("{", "is no JSON"),
        ({"model_type": "mystery"}, "is of architecture 'mystery'"),
        ({"model_type": "bert", "hidden_size": 7}, "no model can be built"),
        ({"model_type": "bert", "hidden_act": "nope"}, "no model can be built"),
        ({"model_type": "llama", "hidden_size": "wide"}, "no model can be built"),
    ],
)
def test_configurations_that_give_no_model_are_refused(
    tmp_path: Path, config: object, message: str
) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    if config is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        load_skeleton(str(tmp_path))


def test_models_of_neither_texts_nor_images_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="takes input_values"):
        blank_examples(load_skeleton(str(tmp_path)), 2)
