"""Heads, as what the manifest says of them and numbers by their names in the file."""

from collections.abc import Mapping

from torch import Tensor

from kfac_artifacts.task_vector.head import ClassifierHead, Head, LinearHead
from kfac_artifacts.task_vector.head_info import HeadInfo


def head_info(head: Head) -> HeadInfo:
    """Describe a head."""
    scale = head.logit_scale if isinstance(head, ClassifierHead) else None
    return HeadInfo(head.classes, head.dim, scale)


def head_tensors(head: Head) -> dict[str, Tensor]:
    """The numbers of a head by their names in the file."""
    return {f"head/{name}": tensor for name, tensor in head.tensors().items()}


def head_of(info: HeadInfo, tensors: Mapping[str, Tensor]) -> Head:
    """Make a head of its numbers, by their names in the file."""
    if info.logit_scale is None:
        return LinearHead(tensors["head/weight"], tensors["head/bias"], info.classes)
    return ClassifierHead(tensors["head/embeddings"], info.classes, info.logit_scale)
