"""Passes give back what they hold."""

import gc
import weakref

import pytest

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.capture.hooks import Pass
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from tests.computed import compute
from tests.models import text_batch, tiny_bert


def test_every_pass_is_freed_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[weakref.ref[Pass]] = []
    start = Pass.__init__

    def noted(self: Pass, *args: object) -> None:
        passes.append(weakref.ref(self))
        start(self, *args)

    monkeypatch.setattr(Pass, "__init__", noted)
    output_map = OutputMap(
        NamedConfig("mean"), lambda m, b: m(**b).last_hidden_state.mean(1)
    )
    network = Network(tiny_bert(), output_map, "bert")
    compute(network, TensorExamples(text_batch(), "three"), batch_size=1)
    gc.collect()
    assert len(passes) > 3
    assert [p for p in passes if p() is not None] == []
