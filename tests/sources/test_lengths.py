"""How long a text may be: what each architecture can run, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import (
    blank_examples,
    encode_texts,
    load_examples,
    load_network,
    load_skeleton,
)
from kfac_artifacts.sources.positions import positions_of
from kfac_artifacts.sources.texts import load_text_encoder
from tests.models import START, VOCABULARY, SavedModel, tiny_tokenizer
from tests.sources.families import WIDTHS

ROWS = 20
SMALL = WIDTHS | {
    "num_hidden_layers": 1,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 1,
    "max_position_embeddings": ROWS,
}
GPT = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": ROWS}
TABLES: dict[str, tuple[int, dict[str, Any]]] = {  # the longest text, and more settings
    "albert": (20, {"embedding_size": 8}),
    "bert": (20, {}),
    "biogpt": (20, {}),
    "camembert": (18, {}),
    "data2vec-text": (18, {}),
    "distilbert": (20, {"dim": 8, "hidden_dim": 12, "n_layers": 1, "n_heads": 2}),
    "esm": (18, {"position_embedding_type": "absolute", "mask_token_id": 3}),
    "gpt2": (20, GPT),
    "ibert": (18, {}),
    "longformer": (18, {"attention_window": 4}),
    "luke": (18, {"entity_vocab_size": 5, "entity_emb_size": 8}),
    "markuplm": (18, {}),
    "mpnet": (18, {}),
    "nystromformer": (20, {"num_landmarks": 5, "segment_means_seq_len": 5}),
    "opt": (20, {"ffn_dim": 12, "word_embed_proj_dim": 8}),
    "roberta": (18, {}),
    "roberta, other padding": (19, {"pad_token_id": 0}),
    "xlm-roberta": (18, {}),
    "xmod": (18, {"default_language": "en_XX", "languages": ["en_XX"]}),
    "yoso": (20, {}),
}


def _build(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    name = kind.partition(",")[0]
    config = tf.AutoConfig.for_model(name, **(SMALL | settings))
    return tf.AutoModel.from_config(config).eval()


@pytest.mark.filterwarnings("ignore")  # of transformers, about experimental models
@pytest.mark.parametrize("kind", TABLES)
def test_the_longest_text_runs_and_one_token_more_does_not(kind: str) -> None:
    limit, settings = TABLES[kind]
    module = _build(kind, **settings)
    assert positions_of(module) == limit

    def run(length: int) -> None:
        ids = torch.full((1, length), 5)
        with torch.no_grad():
            module(input_ids=ids, attention_mask=torch.ones_like(ids))

    run(limit)
    with pytest.raises((IndexError, RuntimeError)):
        run(limit + 1)


def test_models_without_a_table_are_as_long_as_they_say() -> None:
    llama = _build("llama")
    t5 = tf.T5EncoderModel(
        tf.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    assert positions_of(llama) == ROWS
    assert positions_of(t5) == 10**9


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    _build("roberta").save_pretrained(tmp_path / "m")
    tokenizer = tiny_tokenizer("<s> $A </s>", pad_token="<unk>")  # number 1, as there
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def _settings(directory: Path, **entries: Any) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("length", [int(1e30), 512, 20, None])
def test_long_texts_are_cut_to_the_positions_whatever_the_tokenizer_says(
    roberta: Path, length: int | None
) -> None:
    _settings(roberta, model_max_length=length)
    network = load_network(str(roberta), device="cpu")
    assert load_text_encoder(network).max_length == 18
    assert encode_texts(network, ["cat " * 100, "a dog"]).isfinite().all()


def test_lengths_beyond_the_positions_are_one_line(roberta: Path) -> None:
    (roberta.parent / "t.csv").write_text("text\na cat\na dog\n")
    network, skeleton = load_network(str(roberta)), load_skeleton(str(roberta))
    message = "19 is not within 1 and the 18 tokens that m has positions for"
    with pytest.raises(SourceError, match=f"max_length {message}"):
        load_examples(str(roberta.parent / "t.csv"), network, max_length=19)
    with pytest.raises(SourceError, match=f"tokens {message}"):
        blank_examples(skeleton, 2, tokens=19)
    assert blank_examples(skeleton, 2)["input_ids"].shape == (2, 18)


def test_room_for_the_frame_alone_is_not_enough(roberta: Path) -> None:
    network = load_network(str(roberta))
    with pytest.raises(SourceError, match="max_length 2 leaves no room for a text: th"):
        load_text_encoder(network, 2)
    encoder = load_text_encoder(network, 3)
    assert encoder([("a cat",)])["input_ids"].tolist() == [[START, 4, 3]]
    with pytest.raises(SourceError, match="the tokenizer adds 3 tokens to every pair"):
        encoder([("a cat", "a dog")])


@pytest.mark.parametrize("text", ["", "   ", "\u200b"])
def test_a_text_without_a_token_is_said(saved_model: SavedModel, text: str) -> None:
    network = load_network(str(saved_model("gpt2")), device="cpu")
    encoder = load_text_encoder(network)
    encoder.tokenizer.backend_tokenizer.normalizer = _without_invisible()
    with pytest.raises(SourceError, match="1 of 2 texts have no token"):
        encoder([("a cat",), (text,)])


def _without_invisible() -> Any:
    from tokenizers import normalizers

    return normalizers.Replace("\u200b", "")


def test_no_texts_at_all_is_said(saved_model: SavedModel) -> None:
    with pytest.raises(SourceError, match="there are no texts to encode"):
        encode_texts(load_network(str(saved_model("bert"))), [])
