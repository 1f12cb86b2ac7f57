"""The factors of the authors of TAK, written by their code, against this package's."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges import About, Naming
from kfac_artifacts.bridges.imports.tak import Tak
from kfac_artifacts.errors import KfacError, MismatchError, SettingsError
from kfac_artifacts.sources import output_map
from tests.bridges.made import FILES, tak_images, tiny_vision_tower
from tests.bridges.oracle import EXACT, require_same

TASK = FILES / "tak" / "tiny_task_0"
POSITIONS = 5  # four patches and the class token
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "visual_projection")


def network() -> kfac.Network:
    tower = tiny_vision_tower()
    return kfac.Network(tower, output_map(tower), "tiny/clip")


@pytest.fixture(scope="module")
def imported() -> Artifact:
    return Tak(positions=POSITIONS, draws=0).convert(TASK, network(), About())


@pytest.fixture(scope="module")
def computed() -> Artifact:
    examples = kfac.TensorExamples({"pixel_values": tak_images()}, "tiny")
    return kfac.compute(network(), examples, cotangents=EXACT, allow_few=True)


def blocks(artifact: Artifact) -> Iterator[str]:
    yield from (name for name in artifact.blocks if name.endswith(LINEAR))


def test_a_and_b_are_those_that_are_computed_here(
    imported: Artifact, computed: Artifact
) -> None:
    names = [*blocks(imported)]
    assert len(names) == 2 * 6 + 1
    require_same(imported, computed, names)


def test_norms_and_the_class_token_are_whole_gramians(
    imported: Artifact, computed: Artifact
) -> None:
    names = imported.blocks.keys() - {*blocks(imported)}
    assert len(names) == 2 * 4 + 2 * 2 + 1
    require_same(imported, computed, [*names])


def test_what_it_belongs_to_is_recorded(imported: Artifact, computed: Artifact) -> None:
    about = imported.provenance
    assert about.base == computed.provenance.base.restrict({*about.base.parameters})
    assert about.output_map == computed.provenance.output_map
    assert about.estimator.name == "kfac"
    assert about.estimator.configuration == {
        "converted_from": "tak",
        "positions": POSITIONS,
        "draws": 0,
    }
    (source,) = about.sources
    assert source.cotangents == EXACT
    assert (source.data.id, source.data.examples) == ("tiny_task_0", 5)
    left = about.uncovered
    assert {*left} == {
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
    }


def test_it_is_written_verified_and_trained_with(
    imported: Artifact, computed: Artifact, tmp_path: Path
) -> None:
    kfac.save_artifact(imported, tmp_path / "tak")
    assert all(finding.good for finding in kfac.verify(tmp_path / "tak"))
    read = kfac.load_artifact(tmp_path / "tak")
    tau = {name: torch.ones(shape) for name, shape in read.parameters.items()}
    names = {*read.blocks}
    base = computed.provenance.base.restrict({*read.parameters})
    same = Artifact(
        replace(computed.provenance, base=base),
        {name: block for name, block in computed.blocks.items() if name in names},
        computed.factors,
    )
    torch.testing.assert_close(read.drift(tau), same.drift(tau), rtol=1e-4, atol=0)


def test_draws_are_divided_out() -> None:
    def drift(draws: int) -> float:
        artifact = Tak(POSITIONS, draws).convert(TASK, network(), About())
        tau = {name: torch.ones(s) for name, s in artifact.parameters.items()}
        return float(artifact.drift(tau))

    assert drift(2) == pytest.approx(drift(1) / 2)


def test_any_of_its_files_names_the_task(imported: Artifact) -> None:
    path = TASK.with_name("tiny_task_0_num_ggT.pt")
    again = Tak(POSITIONS, 0).convert(path, network(), About())
    assert again.provenance == imported.provenance


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (About(examples=6), "of 5 examples, not 6"),
        (About(size=4), "5 examples cannot be of data that have 4"),
        (About(naming=Naming((("nothing", "x"),))), "matches no name"),
        (About(naming=Naming((), ("nothing",))), "nothing is called 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused(about: About, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Tak(POSITIONS, 0).convert(TASK, network(), about)


def test_another_model_is_refused_with_the_names_that_go_nowhere() -> None:
    other = kfac.Network(
        torch.nn.Sequential(torch.nn.Linear(8, 8)), network().output_map, "tiny/other"
    )
    with pytest.raises(MismatchError, match=r"nothing in tiny/other goes with .*qkv"):
        Tak(POSITIONS, 0).convert(TASK, other, About())


def test_what_is_left_out_is_reported() -> None:
    naming = Naming(left_out=("*ln_*",))
    found = Tak(POSITIONS, 0).convert(TASK, network(), About(naming=naming))
    name = "vision_model.pre_layrnorm.weight"
    assert name not in found.parameters
    assert "converted from tak" in found.provenance.uncovered[name]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(KfacError, match=r"none_aaT\.pt does not exist"):
        Tak(POSITIONS, 0).convert(tmp_path / "none", network(), About())


class Block(nn.Module):
    """A layer as OpenAI's CLIP has it, of which only names and shapes matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.ln_1, self.ln_2 = nn.LayerNorm(8), nn.LayerNorm(8)
        layers = {"c_fc": nn.Linear(8, 32), "c_proj": nn.Linear(32, 8)}
        self.mlp = nn.Sequential(OrderedDict(layers))


def test_a_fused_map_of_attention_takes_the_whole_of_b(imported: Artifact) -> None:
    visual = nn.Module()
    visual.ln_pre, visual.ln_post = nn.LayerNorm(8), nn.LayerNorm(8)
    visual.class_embedding = nn.Parameter(torch.ones(8))
    visual.transformer = nn.Module()
    visual.transformer.resblocks = nn.ModuleList(Block() for _ in range(2))
    openai = nn.ModuleDict({"visual": visual})
    other = kfac.Network(openai, network().output_map, "tiny/openai")
    naming = Naming(left_out=("lin_proj.weight",))
    found = Tak(POSITIONS, 0).convert(TASK, other, About(naming=naming))
    name = "visual.transformer.resblocks.1.attn.in_proj"
    block = found.blocks[name]
    assert block.parameters == (f"{name}_weight", f"{name}_bias")
    B = found.factors[f"{name}.B"].to_dense()
    assert B.shape == (24, 24)
    for index, part in enumerate("qkv"):
        own = f"vision_model.encoder.layers.1.self_attn.{part}_proj.B"
        rows = slice(8 * index, 8 * (index + 1))
        torch.testing.assert_close(B[rows, rows], imported.factors[own].to_dense())
    assert "visual.class_embedding" in found.parameters
    assert "visual.transformer.resblocks.0.attn.out_proj" in found.blocks


def test_it_merges_with_what_is_computed_here(
    imported: Artifact, computed: Artifact
) -> None:
    names = {*imported.blocks}
    base = computed.provenance.base.restrict({*imported.parameters})
    own = Artifact(
        replace(computed.provenance, base=base),
        {name: block for name, block in computed.blocks.items() if name in names},
        computed.factors,
    )
    total = kfac.merge([imported, own])
    assert total.provenance.tasks == 2
    tau = {name: torch.ones(shape) for name, shape in imported.parameters.items()}
    torch.testing.assert_close(total.drift(tau), own.drift(tau), rtol=1e-4, atol=0)
