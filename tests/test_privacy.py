"""What artifacts give away: tables and few examples only if told, and never unsaid."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module

from kfac_artifacts.artifact import (
    ENOUGH_EXAMPLES,
    Cotangents,
    NamedConfig,
    disclosure,
)
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import CoverageError, SourceError
from kfac_artifacts.estimate import compute, compute_with_curvlinops, plan
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import push
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests import models
from tests.artifacts import card_of
from tests.commands import kfac
from tests.models import SavedModel

ENGINES = [compute, compute_with_curvlinops]
WORD, PLACE = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
)
ONE = Cotangents("mc", 1, 0)


def pooled(module: Module, batch: dict[str, Tensor]) -> Tensor:
    return module(**batch).last_hidden_state[:, 0]


def bert() -> Network:
    return Network(models.tiny_bert(), OutputMap(NamedConfig("first"), pooled), "bert")


def texts(count: int, different: int | None = None) -> TensorExamples:
    """Random texts of four tokens, of which so many are different."""
    different = different or count
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randperm(20**2, generator=generator)[:different]
    words = torch.stack(
        [
            torch.full((different,), 2),
            4 + numbers // 20,
            4 + numbers % 20,
            torch.full((different,), 3),
        ],
        1,
    )
    ids = words.repeat(-(-count // different), 1)[:count]
    mask = torch.ones_like(ids)
    return TensorExamples({"input_ids": ids, "attention_mask": mask}, "texts")


@pytest.mark.parametrize("compute", ENGINES)
def test_tables_are_left_out_with_the_reason_unless_told(
    compute: Callable[..., Any],
) -> None:
    artifact = compute(bert(), texts(70), cotangents=ONE, batch_size=70)
    assert not any("embeddings." in n and "Norm" not in n for n in artifact.parameters)
    for name in (WORD, PLACE, "embeddings.token_type_embeddings.weight"):
        assert "exact number of times" in artifact.provenance.uncovered[name]
    assert "encoder.layer.0.attention.self.query.weight" in artifact.parameters


def test_told_tables_count_every_token_and_place() -> None:
    examples = texts(70)
    artifact = compute(bert(), examples, tables=True)
    counts = torch.bincount(examples.tensors["input_ids"].flatten(), minlength=28)
    A = artifact.factors["embeddings.word_embeddings.A"].diagonal()
    padding = models.PAD
    assert torch.allclose(A * counts.sum(), counts.to(A.dtype), rtol=1e-5)
    assert counts[padding] == 0
    assert WORD in disclosure(artifact).tables
    assert PLACE in disclosure(artifact).tables


class OtherName(nn.Embedding):
    """A table by kind, whatever it is called."""

    def forward(self, ids: Any) -> Any:
        return 2 * super().forward(ids)


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = OtherName(6, 3)
        self.readout = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.readout(self.projection(x).sum(1))


def test_a_table_is_known_by_its_kind_and_not_by_its_name() -> None:
    network = Network(
        Lookup(), OutputMap(NamedConfig("f"), lambda m, b: m(b["x"])), "mine"
    )
    generator = torch.Generator().manual_seed(1)
    data = TensorExamples({"x": torch.randint(6, (300, 5), generator=generator)}, "x")
    artifact = compute(network, data, count=300)
    assert set(artifact.parameters) == {"readout.weight", "readout.bias"}
    with pytest.raises(CoverageError, match="--include-tables"):
        compute(network, data, count=300, only=("projection.*",))
    planned = plan(network, data.batch([0, 1]))
    assert set(planned.uncovered) == {"projection.weight"}
    told = plan(network, data.batch([0, 1]), tables=True)
    assert not told.uncovered


def test_positions_that_every_image_uses_alike_stay() -> None:
    network = Network(models.tiny_vit(), OutputMap(NamedConfig("first"), pooled), "vit")
    images = TensorExamples(models.image_batch(70), "images")
    artifact = compute(network, images, count=70)
    assert "embeddings.position_embeddings" in artifact.parameters
    assert disclosure(artifact).tables == ()


@pytest.mark.parametrize("compute", ENGINES)
@pytest.mark.parametrize(
    ("there", "different", "count", "said"),
    [
        (63, 63, 256, "63 examples:"),
        (300, 300, 63, "63 examples:"),
        (200, 40, 256, "200 examples, 40 different:"),
    ],
)
def test_few_different_examples_are_refused_unless_told(
    compute: Callable[..., Any], there: int, different: int, count: int, said: str
) -> None:
    options = {"count": count, "cotangents": ONE, "only": ("encoder.layer.1.output.*",)}
    with pytest.raises(SourceError, match=said):
        compute(bert(), texts(there, different), **options)
    told = compute(bert(), texts(there, different), allow_few=True, **options)
    assert told.provenance.sources[0].data.examples == min(there, count)


def test_64_different_examples_are_enough() -> None:
    artifact = compute(bert(), texts(ENOUGH_EXAMPLES))
    assert not disclosure(artifact).few


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with tables, of few examples."""
    path = tmp_path_factory.mktemp("told") / "told"
    artifact = compute(bert(), texts(9), tables=True, allow_few=True)
    save_artifact(artifact, path)
    return path


@pytest.mark.parametrize("recipe", ["small", "int8", "diagonal+bfloat16"])
def test_compressing_hides_no_table(told: Path, tmp_path: Path, recipe: str) -> None:
    save_artifact(load_artifact(told), tmp_path / "small", recipe=recipe)
    tables = disclosure(load_artifact(tmp_path / "small", verify=False)).tables
    assert {WORD, PLACE} <= set(tables)
    assert not any("encoder" in name for name in tables)


def test_few_examples_of_one_task_are_few_in_a_merged_artifact(
    told: Path, tmp_path: Path
) -> None:
    many = compute(bert(), texts(70), tables=True)
    merged = merge([load_artifact(told), many])
    found = disclosure(merged)
    assert (found.examples, found.fewest, found.few) == (79, 9, True)
    assert WORD in found.tables


def test_pushing_warns_of_tables_and_few_examples(
    told: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        push(told, str(tmp_path / "registry"))
    assert WORD in caplog.text
    assert "9 examples of a task" in caplog.text
    said = kfac("push", told, tmp_path / "other").stderr
    assert f"Warning: it gives away exactly how often each row of {WORD}" in said
    assert "second moments of 9 examples" in said
    caplog.clear()
    careful = compute(bert(), texts(70))
    save_artifact(careful, tmp_path / "careful")
    with caplog.at_level(logging.WARNING):
        push(tmp_path / "careful", str(tmp_path / "third"))
    assert not caplog.text


def test_the_card_says_what_is_given_away(told: Path, tmp_path: Path) -> None:
    card = card_of(load_artifact(told, verify=False), 1, "place")
    section = card.split("## What this gives away")[1].split("##")[0]
    for words in (WORD, "9 examples only", "encoder.layer.0.attention.self.query"):
        assert words in section
    save_artifact(compute(bert(), texts(70)), tmp_path / "careful")
    card = card_of(load_artifact(tmp_path / "careful", verify=False), 1, "place")
    section = card.split("## What this gives away")[1].split("##")[0]
    assert "70 examples" in section
    assert "No table" in section
    assert "examples only" not in section


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 70 different texts."""
    lines = [" ".join(models.WORDS[n] for n in (i % 9, i // 9)) for i in range(70)]
    path = tmp_path / "notes.csv"
    path.write_text("\n".join(["text", *lines]) + "\n")
    return path


def test_the_command_says_what_is_published(
    saved_model: SavedModel, table: Path, tmp_path: Path
) -> None:
    start = ("compute", saved_model("bert"), table, "-o")
    said = kfac(*start, tmp_path / "a")
    assert said.exit_code == 0, said.output
    assert "what it gives away: second moments of 70 examples" in said.stdout
    assert "tables that count tokens or places: none" in said.stdout
    assert "70 examples of notes.csv" in said.stdout
    assert "exact number of times" in said.stdout
    assert said.stderr == "notes.csv: 70 rows read, column 'text', 70 used\n"
    few = kfac(*start, tmp_path / "b", "--examples", 63)
    assert few.exit_code == 1
    assert "--allow-few" in few.stderr
    assert not (tmp_path / "b").exists()
    told = kfac(
        *start,
        tmp_path / "b",
        "--examples",
        63,
        "--allow-few",
        "--include-tables",
        "--json",
    )
    assert told.exit_code == 0, told.output
    assert "Warning: it gives away exactly how often each row" in told.stderr
    assert WORD in json.loads(told.stdout)["disclosure"]["tables"]
