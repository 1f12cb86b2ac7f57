"""The class-incremental protocol: one head over the classes of all tasks.

Every task's examples are classified among the classes of all (TAK, App. F.7; Porrello
et al. 2025), and not among those of their own task alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.evaluate.tasks import EvaluationTask, heads_for
from kfac_artifacts.network import Network
from kfac_artifacts.task_vector import ClassifierHead, Head


def union_head(heads: Sequence[Head]) -> ClassifierHead:
    """Put heads together to one over the classes of all.

    >>> a = ClassifierHead(torch.eye(3)[:2], ("cat", "dog"), 20.0)
    >>> b = ClassifierHead(torch.eye(3)[1:], ("dog", "cow"), 20.0)
    >>> union_head([a, b]).classes
    ('cat', 'dog', 'cow')

    Args:
        heads: Class embeddings for outputs of the same size, K_t classes each.

    Returns:
        A head of every class once, in the order in which they come, with the logit
        scale of the first: an answer is the largest cosine whatever the scale.

    Raises:
        MismatchError: If two heads have unlike embeddings for a class of one name, or
            are for outputs of unlike sizes, or a head is a linear layer: its logits
            were fitted among the classes of its own task, and compare with no others.
        SettingsError: If there is no head.
    """
    if not heads:
        raise SettingsError("there is no head to put together; give at least one")
    embedded = [head for head in heads if isinstance(head, ClassifierHead)]
    if len(embedded) < len(heads):
        raise MismatchError(
            f"{len(heads) - len(embedded)} of {len(heads)} heads are linear layers, "
            "whose logits compare with none of another task; give heads of class texts "
            "or of prototypes"
        )
    sizes = sorted({head.dim for head in heads})
    if len(sizes) > 1:
        raise MismatchError(
            f"the heads are for outputs of sizes {', '.join(map(str, sizes))}; one "
            "head over all classes needs those of one network"
        )
    rows: dict[str, Tensor] = {}
    for head in embedded:
        for name, row in zip(head.classes, normalize(head.embeddings), strict=True):
            known = rows.setdefault(name, row)
            if not torch.allclose(known, row.to(known), atol=1e-4):
                raise MismatchError(
                    f"two tasks have a class {name!r} that their heads do not embed "
                    "alike; rename one, or make the heads of the same texts"
                )
    return ClassifierHead(
        torch.stack([*rows.values()]), tuple(rows), embedded[0].logit_scale
    )


def with_union_head(
    network: Network, tasks: Sequence[EvaluationTask]
) -> list[EvaluationTask]:
    """Give every task the head over the classes of all, to evaluate them with.

    Args:
        network: The pretrained network.
        tasks: Tasks, each with a head of its own or of its task vector.

    Returns:
        The same tasks, with one head.

    Raises:
        MismatchError: As of ``union_head``, or if a task has no head.
        SettingsError: If there is no task.
    """
    head = union_head(heads_for(network, tasks))
    return [replace(task, head=head) for task in tasks]
