"""Inputs of language models are seen without what the head makes of them."""

from typing import Any

import pytest
import torch

from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.estimate import Inputs, Kfac
from kfac_artifacts.network import TensorExamples
from tests.computed import compute
from tests.language.heads import batch_of, network_of

HEADS = {
    "LlamaForCausalLM": "lm_head",
    "GPT2LMHeadModel": "lm_head",
    "BertForMaskedLM": "cls.predictions.decoder",
    "T5ForConditionalGeneration": "lm_head",
}


class Deaf:
    """Listens to nothing."""

    keeps_inputs = False

    def on_input(self, call: Any) -> None:
        """Nothing."""

    def on_cotangent(self, call: Any, g: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("name", HEADS)
def test_a_forward_pass_alone_does_without_the_head_and_leaves_it_there(
    name: str,
) -> None:
    network = network_of(name, "lm-fisher")
    assert network.output_map.head == HEADS[name]
    head = network.module.get_submodule(HEADS[name])
    with torch.no_grad():
        head.weight = torch.nn.Parameter(torch.full_like(head.weight, torch.nan))
    batch = batch_of(name)
    found = Pass(network, [], batch, Deaf()).forward(forward_only=True).f
    assert found.isfinite().all()
    assert not Pass(network, [], batch, Deaf()).forward().f.isfinite().all()
    assert "forward" not in vars(head)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "T5ForConditionalGeneration"])
def test_the_inputs_are_those_of_whole_passes_of_the_head_as_well(name: str) -> None:
    network = network_of(name, "lm-fisher", tie_word_embeddings=False)
    examples = TensorExamples(batch_of(name), "x")
    alone = compute(network, examples, estimator=Inputs(), tables=True)
    whole = compute(network, examples, estimator=Kfac(), tables=True)
    assert ("lm_head.weight" in alone.parameters) == (name == "LlamaForCausalLM")
    assert alone.parameters.keys() <= whole.parameters.keys()
    for block in alone.blocks.values():
        (other,) = (
            b for b in whole.blocks.values() if b.parameters == block.parameters
        )
        torch.testing.assert_close(
            alone.factors[block.inputs[0]].to_dense(),
            whole.factors[other.inputs[0]].to_dense(),
        )
