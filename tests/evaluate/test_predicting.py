"""Predictions that are none."""

import pytest
import torch

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.evaluate import predict
from kfac_artifacts.task_vector import LinearHead
from tests.tiny_task import CLASSES, tiny_network, tiny_points


def test_logits_that_overflow_choose_no_class() -> None:
    head = LinearHead(torch.full((3, 5), 3e38), torch.zeros(3), CLASSES)
    with pytest.raises(MismatchError, match="not finite, so no class is the most"):
        predict(tiny_network(), tiny_points(1), head=head)
