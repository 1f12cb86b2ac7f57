"""Heads, as what the manifest says of them and numbers by their names in the file."""

from collections.abc import Mapping

from torch import Tensor

from kfac_artifacts.task_vector.head import ClassifierHead, Head, LinearHead
from kfac_artifacts.task_vector.head_info import HeadInfo
from kfac_artifacts.task_vector.layered_head import HeadLayer, LayeredHead


def head_info(head: Head) -> HeadInfo:
    """Describe a head."""
    scale = head.logit_scale if isinstance(head, ClassifierHead) else None
    layers = head.layers if isinstance(head, LayeredHead) else ()
    return HeadInfo(head.classes, head.dim, scale, tuple(x.info for x in layers))


def head_tensors(head: Head) -> dict[str, Tensor]:
    """The numbers of a head by their names in the file."""
    return {f"head/{name}": tensor for name, tensor in head.tensors().items()}


def head_of(info: HeadInfo, tensors: Mapping[str, Tensor]) -> Head:
    """Make a head of its numbers, by their names in the file."""
    if info.logit_scale is not None:
        rows = tensors["head/embeddings"]
        return ClassifierHead(rows, info.classes, info.logit_scale)
    if not info.layers:
        return LinearHead(tensors["head/weight"], tensors["head/bias"], info.classes)
    layers = (
        HeadLayer(layer, tensors.get(f"head/{i}/weight"), tensors.get(f"head/{i}/bias"))
        for i, layer in enumerate(info.layers)
    )
    return LayeredHead(tuple(layers), info.classes)
