"""Prompts that models of sentence-transformers declare."""

from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer import modules as st

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_network
from kfac_artifacts.sources.texts import load_text_encoder
from tests.models import SavedModel
from tests.sources.sentence_encoders import edit, old_layout, require_equal, write

pytestmark = pytest.mark.usefixtures("calm")


def test_a_prompt_can_be_given_left_out_and_is_told_and_recorded(
    saved_model: SavedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, "mean")]
    prompts = {"prompts": {"ask": "a cat "}, "default_prompt_name": "ask"}
    made = write(tmp_path / "told", steps, **prompts)
    for prompt in ("", "the red "):
        require_equal(made, prompt=prompt)
    network = load_network(str(made), device="cpu")
    caplog.clear()
    assert load_text_encoder(network).configuration["prompt"] == "a cat "
    assert "told declares the prompt 'a cat ': it is put before" in caplog.text
    assert "prompt" not in load_text_encoder(network, prompt="").configuration


def test_prompts_without_a_default_are_told_and_not_used(
    saved_model: SavedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [st.Transformer(str(saved_model("bert"))), st.Pooling(8, "mean")]
    made = write(tmp_path / "several", steps, prompts={"query": "it is "})
    caplog.clear()
    assert load_text_encoder(load_network(str(made))).prompt == ""
    assert "several declares prompts, but none as the default: query ('it" in (
        caplog.text
    )


def test_a_default_prompt_that_is_not_declared_is_an_error(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    made = old_layout(saved_model("bert"), tmp_path / "old")
    edit(made / "config_sentence_transformers.json", default_prompt_name="q")
    with pytest.raises(SourceError, match="default prompt 'q' is not among"):
        load_text_encoder(load_network(str(made)))
