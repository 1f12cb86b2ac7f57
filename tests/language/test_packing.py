"""Texts that share rows: each is as if it were alone, by brute force."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from kfac_artifacts.errors import SettingsError, SourceError
from kfac_artifacts.estimate import GaussianNoise, Kfac, compute as compute_unless_few
from kfac_artifacts.progress import Advance
from kfac_artifacts.sources import load_examples, load_network
from kfac_artifacts.sources.language.packing import packed
from tests.brute_force import EXACT, gramian, jacobians
from tests.computed import compute
from tests.language.saved import save_model
from tests.language.test_texts import TEXTS, opened, rows

PACK = {"pack": True, "max_length": 14}


def texts(*values: str) -> list[dict[str, Any]]:
    return [{"text": value} for value in values or TEXTS]


@given(st.lists(st.integers(1, 12), max_size=60))
def test_every_text_is_in_one_row_with_room_for_it(lengths: list[int]) -> None:
    packs = packed(lengths, 12)
    assert sorted(n for pack in packs for n in pack) == list(range(len(lengths)))
    sums = [sum(lengths[n] for n in pack) for pack in packs]
    assert all(total <= 12 for total in sums)
    opened_by = [lengths[pack[0]] for pack in packs]
    for row, total in enumerate(sums):  # which no row before had room for
        assert all(total + first > 12 for first in opened_by[row + 1 :])


@given(st.lists(st.integers(1, 12), max_size=60))
def test_a_text_goes_where_least_room_is_left(lengths: list[int]) -> None:
    rows: list[list[int]] = []
    for text in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        left = [12 - sum(lengths[n] for n in row) - lengths[text] for row in rows]
        best = min((room for room in left if room >= 0), default=None)
        if best is None:
            rows.append([])
        rows[-1 if best is None else left.index(best)].append(text)
    assert packed(lengths, 12) == tuple(map(tuple, rows))


def test_rows_are_filled_as_the_specification_says() -> None:
    assert packed([3, 9, 4, 5, 3, 2], 12) == ((1, 0), (3, 2, 4), (5,))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_texts_of_a_row_give_what_they_give_alone(name: str, tmp_path: Path) -> None:
    network, alone = opened(tmp_path, name, *texts())
    _, together = opened(tmp_path, name, *texts(), **PACK)
    assert len(together) < len(alone)
    classes = network.output_map.classes
    for row, pack in enumerate(together.packs):
        (f,) = network(together.batch(range(len(together))))[row : row + 1]
        found = f.view(-1, classes)
        found = found[found.any(1)]
        each = [network(alone.batch([n])).view(-1, classes) for n in pack]
        each = [x[x.any(1)] for x in each]  # the last token predicts nothing
        counts = [len(tokens) for tokens in each]
        wanted = [2 * x / x.norm(dim=1, keepdim=True) for x in each]
        torch.testing.assert_close(found, torch.cat(wanted) / sum(counts) ** 0.5)


def test_the_gramian_of_rows_is_the_mean_over_their_tokens(tmp_path: Path) -> None:
    """Of a text alone it is divided by its own tokens, of a row by those of the row."""
    values = texts(*TEXTS, "the dog sits on it")
    network, alone = opened(tmp_path, "LlamaForCausalLM", *values)
    network.module.double()
    _, together = opened(tmp_path, "LlamaForCausalLM", *values, **PACK)
    name = "model.norm.weight"
    artifact = compute(network, together, only=(name,), cotangents=EXACT)
    assert artifact.provenance.sources[0].data.examples == len(together)
    wanted: Any = 0
    for pack in together.packs:
        batches = [alone.batch([n]) for n in pack]
        tokens = [int(batch["predicted"].sum()) for batch in batches]
        for batch, many in zip(batches, tokens, strict=True):
            G = gramian(jacobians(network, batch)[name])
            wanted = wanted + G * many / sum(tokens) / len(together)
    torch.testing.assert_close(artifact.factors[f"{name}.G"].to_dense(), wanted)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_every_block_of_rows_is_that_of_their_texts(name: str, tmp_path: Path) -> None:
    """What of a text comes into a row is its own: A is a mean over the same tokens."""
    network, alone = opened(tmp_path, name, *texts(*TEXTS, *TEXTS))
    network.module.double()
    _, together = opened(tmp_path, name, *texts(*TEXTS, *TEXTS), **PACK)
    own = compute(network, together).blocks
    assert own.keys() == compute(network, alone).blocks.keys()
    A = [compute(network, data).factors for data in (alone, together)]
    for block in own.values():
        if block.kind == "kronecker":
            first = block.terms[0][0]
            torch.testing.assert_close(A[1][first].to_dense(), A[0][first].to_dense())


def test_prompts_are_not_predicted_in_rows(tmp_path: Path) -> None:
    values = [{"q": "the cat", "a": " runs on it"}, {"q": "a bird", "a": " sings"}] * 3
    columns = {"text_columns": ["q", "a"]}
    _, alone = opened(tmp_path, "LlamaForCausalLM", *values, **columns)
    _, together = opened(tmp_path, "LlamaForCausalLM", *values, **columns, **PACK)
    for row, pack in enumerate(together.packs):
        batch = together.batch([row])
        each = [alone.batch([n]) for n in pack]
        for name in ("input_ids", "predicted", "attention_mask"):
            assert torch.equal(batch[name], torch.cat([x[name] for x in each], dim=1))
        places = [torch.arange(x["input_ids"].shape[1]) for x in each]
        assert torch.equal(batch["position_ids"], torch.cat(places)[None])


def test_counting_tokens_shows_how_far_it_is(tmp_path: Path) -> None:
    stages, done = list[tuple[str, int]](), list[int]()

    @contextmanager
    def shown(stage: str, total: int) -> Iterator[Advance]:
        stages.append((stage, total))
        yield done.append

    opened(tmp_path, "LlamaForCausalLM", *texts(*TEXTS * 200), **PACK, progress=shown)
    assert stages == [("counting tokens", 4 * 200)]
    assert done == [512, 288]


def test_a_model_whose_texts_see_one_another_is_refused(tmp_path: Path) -> None:
    network = load_network(save_model(tmp_path / "model", "LlamaForCausalLM"))
    module: Any = network.module
    forward = module.forward
    module.forward = lambda position_ids=None, **inputs: forward(**inputs)
    data = rows(tmp_path / "x.jsonl", *texts())
    with pytest.raises(
        SourceError, match=r"model lets .* LlamaForCausalLM .* leave out --pack"
    ):
        load_examples(data, network, **PACK)


@pytest.mark.parametrize("name", ["lm-fisher", "mean-pool"])
def test_only_what_predicts_the_next_token_is_packed(name: str, tmp_path: Path) -> None:
    of_tokens = {"f": {"output_map": name}}
    with pytest.raises(SourceError, match=f"predict the next token.*used with {name}"):
        opened(tmp_path, "BertForMaskedLM", *texts(), **PACK, **of_tokens)


def test_texts_that_all_fit_into_one_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="all 4 texts fit into one row of 32 tokens"):
        opened(tmp_path, "LlamaForCausalLM", *texts(), pack=True, max_length=32)


def test_rows_of_few_different_texts_are_few_examples(tmp_path: Path) -> None:
    """Rows can differ although all of them are of the same few texts."""
    few = ["the cat runs", "it is good", "a bird sings", "the dog sits", "a red fish"]
    chosen = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    values = texts(*[few[n] for n in chosen])
    network, found = opened(tmp_path, "LlamaForCausalLM", *values, **PACK)
    batch = found.batch(range(len(found)))["input_ids"].tolist()
    assert len({*map(tuple, batch)}) > 64
    with pytest.raises(SourceError, match=r"100 examples, 5 different"):
        compute_unless_few(network, found)


def test_noise_does_not_go_with_rows(tmp_path: Path) -> None:
    network, found = opened(tmp_path, "LlamaForCausalLM", *texts(), **PACK)
    noise = GaussianNoise(8.0, 1e-5, found)
    with pytest.raises(SettingsError, match="which texts share a row"):
        compute(network, found, estimator=Kfac(noise=noise), tables=False)


def test_the_manifest_says_so_and_the_hash_is_of_rows(tmp_path: Path) -> None:
    _, found = opened(tmp_path, "LlamaForCausalLM", *texts(), **PACK)
    info = found.info(range(len(found)))
    assert info.preprocessing.configuration == {
        "columns": ["text"],
        "max_length": 14,
        "packed": True,
    }
    assert info.size == info.examples == len(found)
    _, alone = opened(tmp_path, "LlamaForCausalLM", *texts(), max_length=14)
    assert info.fingerprint != alone.info(range(4)).fingerprint
    assert json.loads(found.parts(0)[0]) == list(alone.texts(found.packs[0][:1])[0])
    assert "packed into" in found.account(2)
