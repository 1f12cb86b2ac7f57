"""What is read and what is predicted of texts, against the losses of transformers."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_examples, load_network
from tests.language.saved import save_model

TEXTS = [
    "the cat runs",
    "a black dog sits on the red fish",
    "it is good",
    "a bird and a white cat sings",
]
HEADED = {"output_map": "lm-fisher"}
IGNORED = -100
"""What transformers calls tokens that no loss is of."""


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def loss_of(network: Network, batch: dict[str, Any], labels: Any) -> Any:
    """Mean of ``-log p`` of labels, with the p that f is made of."""
    (f,) = network(batch)
    squares = f.view(-1, network.output_map.classes).square()
    p = squares[squares.sum(1) > 0] / squares.sum(1).max()
    torch.testing.assert_close(p.sum(1), torch.ones(len(p)))
    return -p[range(len(labels)), labels].log().mean()


def opened(
    path: Path, name: str, *values: dict[str, Any], **options: Any
) -> tuple[Network, Any]:
    network = load_network(save_model(path / "model", name), **options.pop("f", {}))
    return network, load_examples(rows(path / "x.jsonl", *values), network, **options)


def check_loss(network: Network, batch: dict[str, Any], wanted: Any) -> None:
    """The loss that transformers computes of one example for its labels."""
    (labels,) = wanted
    inputs = {k: v for k, v in batch.items() if k not in {"predicted"}}
    module: Any = network.module
    if "decoder_input_ids" in inputs:
        inputs.pop("decoder_input_ids")
    theirs = module(**inputs, labels=wanted).loss
    ours = loss_of(network, batch, labels[labels != IGNORED])
    torch.testing.assert_close(ours, theirs)


def test_every_token_behind_the_first_is_predicted(tmp_path: Path) -> None:
    texts = [{"text": text} for text in TEXTS]
    network, examples = opened(tmp_path, "LlamaForCausalLM", *texts)
    assert network.output_map.info.name == "lm-fisher"
    for n in range(len(TEXTS)):
        batch = examples.batch([n])
        labels = batch["input_ids"].clone()
        labels[:, 0] = IGNORED
        check_loss(network, batch, labels)


def test_padding_is_not_predicted(tmp_path: Path) -> None:
    texts = [{"text": text} for text in TEXTS]
    network, examples = opened(tmp_path, "LlamaForCausalLM", *texts)
    together = network(examples.batch(range(4)))
    for n, row in enumerate(together):
        (alone,) = network(examples.batch([n]))
        torch.testing.assert_close(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


def test_a_prompt_is_read_and_its_continuation_predicted(tmp_path: Path) -> None:
    pairs = [
        {"question": "the cat ", "answer": "runs"},
        {"question": "a dog is on ", "answer": "the red fish"},
    ]
    columns = ["question", "answer"]
    network, examples = opened(
        tmp_path, "LlamaForCausalLM", *pairs, text_columns=columns
    )
    for n, answer in enumerate((1, 3)):
        batch = examples.batch([n])
        labels = batch["input_ids"].clone()
        labels[:, :-answer] = IGNORED
        check_loss(network, batch, labels)
    configuration = examples.info([0]).preprocessing.configuration
    assert configuration["pair"] == "continuation"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_what_the_assistant_says_is_predicted(tmp_path: Path) -> None:
    talk = [
        message("user", "the cat runs"),
        message("assistant", "a dog"),
        message("user", "is it good"),
        message("assistant", "it is red"),
    ]
    network, examples = opened(
        tmp_path,
        "LlamaForCausalLM",
        {"talk": talk},
        {"talk": talk[:2]},
        chat_column="talk",
    )
    for n, spans in enumerate(([(8, 11), (19, 23)], [(8, 11)])):
        batch = examples.batch([n])
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for start, stop in spans:  # the words and the </s> behind them
            labels[:, start:stop] = batch["input_ids"][:, start:stop]
            assert batch["input_ids"][0, stop - 1] == 3
        check_loss(network, batch, labels)
    configuration = examples.info([0]).preprocessing.configuration
    assert configuration["chat"] == "assistant"


@pytest.mark.parametrize(
    ("chat", "error"),
    [
        ("the cat", "holds no list of messages"),
        ([{"role": "user"}], r"with role and content \(or from and value\), in line 1"),
        ([], "holds no list of messages"),
        ([message("user", "the cat")], "1 of 1 examples have no token to predict"),
    ],
)
def test_what_is_no_conversation_is_refused(
    tmp_path: Path, chat: Any, error: str
) -> None:
    good = [message("assistant", "a dog")]

    def read() -> Any:
        rows = {"c": chat}, {"c": good}
        _, examples = opened(tmp_path, "LlamaForCausalLM", *rows, chat_column="c")
        return examples.batch([0])

    with pytest.raises(SourceError, match=error):
        read()


def test_conversations_and_prompts_are_found_by_their_usual_names(
    tmp_path: Path,
) -> None:
    said = (("human", "user", "the cat runs"), ("gpt", "assistant", "a dog"))
    shared = [{"from": name, "value": text} for name, _, text in said]
    usual = [message(role, text) for _, role, text in said]
    for place, asked, found in (
        ("a", {"c": usual}, {"messages": usual, "id": "1"}),
        ("b", {"c": usual}, {"conversations": shared}),
        # as a table writes it, of which each message has all members
        ("e", {"c": usual}, {"messages": [{**m, "role": None} for m in shared]}),
    ):
        _, one = opened(
            tmp_path / place, "LlamaForCausalLM", asked, asked, chat_column="c"
        )
        _, other = opened(tmp_path / f"{place}2", "LlamaForCausalLM", found, found)
        for name, value in one.batch([0, 1]).items():
            assert torch.equal(other.batch([0, 1])[name], value)
    row = {"completion": " a dog", "prompt": "the cat runs"}
    _, one = opened(tmp_path / "c", "LlamaForCausalLM", row, row)
    assert one.columns == ("prompt", "completion")
    with pytest.raises(SourceError, match="two of prompts and answers, or one of"):
        opened(
            tmp_path / "f", "LlamaForCausalLM", *[{"prompt": "a", "Prompt": "b"}] * 2
        )
    text = {**row, "text": "it is", "messages": usual}
    _, one = opened(tmp_path / "d", "LlamaForCausalLM", text, text)
    assert one.columns == ("text",)


def test_of_a_conversation_that_goes_on_only_that_is_predicted(tmp_path: Path) -> None:
    talk = [
        message("user", "the cat runs"),
        message("assistant", "a dog"),
        message("user", "is it good"),
        message("assistant", "it is red"),
    ]
    row = {"prompt": talk[:3], "completion": talk[3:]}
    network, examples = opened(tmp_path, "LlamaForCausalLM", row, row)
    batch = examples.batch([0])
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels[:, 19:23] = batch["input_ids"][:, 19:23]
    check_loss(network, batch, labels)
    found = examples.info([0]).preprocessing.configuration
    assert (found["chat"], found["pair"]) == ("assistant", "continuation")
    rows(tmp_path / "x.jsonl", row, {**row, "completion": "it is red"})
    wrong = r"'completion' \(--text-column\) holds no list of messages.* in line 2"
    with pytest.raises(SourceError, match=wrong):
        load_examples(tmp_path / "x.jsonl", network)


def test_a_template_that_writes_otherwise_what_was_said_is_refused(
    tmp_path: Path,
) -> None:
    good = {"c": [message("user", "it is"), message("assistant", "a dog")]}
    _, examples = opened(tmp_path, "LlamaForCausalLM", good, good, chat_column="c")
    tokenizer = examples.encoder.texts.tokenizer
    tokenizer.chat_template = "{{ messages[0].content | upper }}"
    with pytest.raises(SourceError, match="message 2 of a conversation as it is"):
        examples.batch([0])
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(SourceError, match="cannot write a conversation: no system"):
        examples.batch([0])


def test_conversations_are_for_the_next_token(tmp_path: Path) -> None:
    good = {"c": [message("assistant", "a dog")]}
    with pytest.raises(SourceError, match="used with last-token"):
        opened(
            tmp_path,
            "LlamaForCausalLM",
            good,
            good,
            chat_column="c",
            f={"output_map": "embedding"},
        )


def masked_places(ids: list[int], special: set[int]) -> list[int]:
    """Section 2.1 of the page, step by step."""
    free = [i for i, token in enumerate(ids) if token not in special]
    text = hashlib.sha256(" ".join(str(token) for token in ids).encode()).hexdigest()
    lots = {i: hashlib.sha256(f"{text} {i}".encode()).hexdigest() for i in free}
    return sorted(sorted(free, key=lots.__getitem__)[: math.ceil(0.15 * len(free))])


def test_masked_tokens_are_predicted(tmp_path: Path) -> None:
    texts = [{"text": text} for text in TEXTS]
    network, examples = opened(tmp_path, "BertForMaskedLM", *texts, f=HEADED)
    assert network.output_map.info.name == "lm-fisher"
    tokenizer = examples.encoder.texts.tokenizer
    together = examples.batch(range(4))
    for n, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        wanted = masked_places(ids, {0, 1, 2, 3, 28})
        batch = examples.batch([n])
        assert batch["predicted"][0].nonzero()[:, 0].tolist() == wanted
        assert together["predicted"][n].nonzero()[:, 0].tolist() == wanted
        assert (batch["input_ids"][0, wanted] == tokenizer.mask_token_id).all()
        labels = torch.full_like(batch["input_ids"], IGNORED)
        labels[:, wanted] = torch.tensor(ids)[wanted]
        check_loss(network, batch, labels)
    assert len(masked_places(tokenizer(TEXTS[1])["input_ids"], {0, 1, 2, 3, 28})) == 2
    assert examples.info([0]).preprocessing.configuration["masked"] == 0.15


def test_a_second_text_is_predicted_behind_the_first(tmp_path: Path) -> None:
    pairs = [
        {"a": "the cat runs", "b": "a dog"},
        {"a": "it is good", "b": "the white cat sings"},
    ]
    network, examples = opened(
        tmp_path,
        "T5ForConditionalGeneration",
        *pairs,
        text_columns=["a", "b"],
        f={"output_map": "lm-fisher"},
    )
    tokenizer = examples.encoder.texts.tokenizer
    for n, pair in enumerate(pairs):
        labels = torch.tensor([tokenizer(pair["b"])["input_ids"]])
        check_loss(network, examples.batch([n]), labels)
    with pytest.raises(SourceError, match="give --text-column twice"):
        load_examples(tmp_path / "x.jsonl", network, text_columns="a")


def test_texts_of_one_token_have_nothing_to_predict(tmp_path: Path) -> None:
    texts = [{"text": "cat"}, {"text": "the cat"}]
    _, examples = opened(tmp_path, "GPT2LMHeadModel", *texts)
    with pytest.raises(SourceError, match="1 of 2 examples have no token to predict"):
        examples.batch([0, 1])
    assert examples.batch([1])["predicted"].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("name", "f", "error"),
    [
        ("T5ForConditionalGeneration", "logits-fisher", "head that gives classes"),
        ("BertForSequenceClassification", "lm-fisher", "gives the next token or"),
        ("LlamaForCausalLM", "logits-fisher", "saved as LlamaForCausalLM, without"),
    ],
)
def test_a_map_of_another_head_is_refused(
    tmp_path: Path, name: str, f: str, error: str
) -> None:
    path = save_model(tmp_path / "model", name)
    with pytest.raises(SourceError, match=error):
        load_network(path, output_map=f)


def test_models_without_a_language_head_have_the_map_of_before(tmp_path: Path) -> None:
    for name, wanted in (
        ("T5ForConditionalGeneration", "mean-pool"),
        ("BertForSequenceClassification", "mean-pool"),
        ("BertForMaskedLM", "mean-pool"),
    ):
        network = load_network(save_model(tmp_path / name, name))
        assert network.output_map.info.name == wanted
    embedding = load_network(
        save_model(tmp_path / "m", "LlamaForCausalLM"), output_map="embedding"
    )
    assert embedding.output_map.info.name == "last-token"
    assert "layers.0.mlp.down_proj.weight" in embedding.parameters()
