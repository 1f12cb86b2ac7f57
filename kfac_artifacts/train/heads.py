"""Frozen heads: from the names of the classes, or from the training examples."""

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.task_vector import ClassifierHead, LinearHead
from kfac_artifacts.train.record import spread

USUAL_LOGIT_SCALE, MOST_LOGIT_SCALE = 20.0, 2000.0
TOLERANCE = 1e-3  # of the factor, relative
MEASURED = 256
SMOOTHING = 0.1
LINEAR_DECAY = 1e-4
LINEAR_STEPS = 1000
NO_WORD = re.compile(
    r"[+-]?[\d.,]+|(?=.*\d)([0-9a-f]{8,}|[0-9a-f]{4,}(-[0-9a-f]{4,})+)", re.IGNORECASE
)


def check_names(classes: Sequence[str]) -> None:
    """Refuse names that say nothing, of which nobody would make texts.

    Args:
        classes: Names of classes.

    Raises:
        SettingsError: If all of them are numbers or hashes.
    """
    if classes and all(NO_WORD.fullmatch(name) for name in classes):
        raise SettingsError(
            f"the names of all {len(classes)} classes are bare numbers or codes, whose "
            "texts would say nothing of what they mean: give a text per class "
            "(--class-texts), or around the number (--template), or classify by class "
            "means (--head prototypes); --head texts takes the names as they are"
        )


def class_texts(classes: Sequence[str], template: str = "{}") -> list[str]:
    """Write every class as a text: ``dark_red`` becomes ``a photo of a dark red``.

    Args:
        classes: Names of classes.
        template: A text with ``{}`` where the name goes.

    Returns:
        One text per class.

    Raises:
        SettingsError: If the template has no place for the name.
    """
    if "{}" not in template:
        raise SettingsError(f"the template {template!r} has no {{}} for the class")
    names = (name.replace("_", " ").replace("-", " ") for name in classes)
    return [template.replace("{}", name) for name in names]


def read_texts(path: str | Path, classes: Sequence[str]) -> list[str]:
    """Read a text per class: json by class or in order, else one per line.

    Args:
        path: The file.
        classes: Names of the classes, in order.

    Returns:
        One text per class.

    Raises:
        SettingsError: If the file does not have one text for every class.
    """
    path = Path(path)
    try:
        content = path.read_text("utf-8-sig")
        lines = [line for line in content.split("\n") if line.strip()]
        value = json.loads(content) if path.suffix == ".json" else lines
    except ValueError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if isinstance(value, dict):
        by_name = {_plain(name): text for name, text in value.items()}
        value = [by_name[_plain(c)] for c in classes if _plain(c) in by_name]
    texts = [text for text in value if isinstance(text, str) and text.strip()]
    if not len(texts) == len(value) == len(classes):
        raise SettingsError(
            f"{path} has no text for each of the {len(classes)} classes and nothing "
            f"else: {len(texts)} texts of classes were found in it"
        )
    return texts


def _plain(name: str) -> str:
    """The name of a class as labels are read: é is one character."""
    return unicodedata.normalize("NFC", name.strip())


def model_logit_scale(network: Network) -> float | None:
    """The logit scale that the model was pretrained with; None if it has none."""
    scale = getattr(network.module, "logit_scale", None)
    return float(scale.detach().exp()) if isinstance(scale, torch.Tensor) else None


def text_head(
    embeddings: Float[Tensor, "k c"], classes: Sequence[str], *, logit_scale: float
) -> ClassifierHead:
    """Make a head of encoded class texts.

    Args:
        embeddings: One row per class.
        classes: Names of the classes, in order.
        logit_scale: Factor from cosines to logits.

    Returns:
        The head.

    Raises:
        SettingsError: If two classes have the same embedding.
    """
    known: dict[tuple[float, ...], int] = {}
    for number, row in enumerate(embeddings.tolist(), 1):
        other = known.setdefault(tuple(row), number)
        if other != number:
            raise SettingsError(
                f"the model encodes the texts of classes {other} and {number} of "
                f"{len(classes)} the same, so they cannot be told apart; give other "
                "texts for the classes (--class-texts)"
            )
    return ClassifierHead(embeddings, tuple(classes), logit_scale)


def prototype_head(
    network: Network,
    examples: LabelledExamples,
    indices: Sequence[int],
    *,
    logit_scale: float | None = None,
    batch_size: int = 64,
) -> ClassifierHead:
    """Make a head of class means of the pretrained outputs, every output normalised.

    Args:
        network: The pretrained network.
        examples: Labelled examples.
        indices: Numbers of the examples to average over.
        logit_scale: Factor from cosines to logits; None for what fits the examples.
        batch_size: Examples per forward pass.

    Returns:
        The head.

    Raises:
        SettingsError: If a class has no example among them.
    """
    labels = _labels(examples, indices, "prototype")
    features = normalize(_outputs(network, examples, indices, batch_size), dim=-1)
    sums = torch.zeros(len(examples.classes), features.shape[1])
    sums.index_add_(0, labels, features)
    prototypes = normalize(sums, dim=-1)
    if logit_scale is None:
        logit_scale = fitted_scale(*_left_out(features, sums, labels))
    return ClassifierHead(prototypes, tuple(examples.classes), logit_scale)


def scale_for(
    network: Network,
    examples: LabelledExamples,
    indices: Sequence[int],
    embeddings: Float[Tensor, "k c"],
    *,
    batch_size: int = 64,
) -> float:
    """Find the logit scale of class embeddings that fits a few examples.

    Args:
        network: The pretrained network.
        examples: The examples.
        indices: Numbers of those that may be looked at; at most ``MEASURED`` are.
        embeddings: One row per class.
        batch_size: Examples per forward pass.

    Returns:
        As of ``fitted_scale``; the usual scale if the examples have no labels.
    """
    if len(examples.labels) < len(examples):
        return USUAL_LOGIT_SCALE
    few = spread(indices, MEASURED)
    features = normalize(_outputs(network, examples, few, batch_size), dim=-1)
    labels = torch.tensor([examples.labels[i] for i in few])
    return fitted_scale(features @ normalize(embeddings, dim=-1).mT, labels)


def fitted_scale(cosines: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Find the factor from cosines to logits that fits best, if the usual one does not.

    The outputs of some models lie so close together that the usual factor leaves all
    classes alike, whatever is trained. The mean cross entropy is convex in the factor;
    labels are smoothed (Szegedy et al. 2016), or examples that can be told apart would
    make it grow until there is no loss to learn from.

    Args:
        cosines: Of N examples with K classes.
        labels: Their classes.

    Returns:
        The usual factor, or the one with the least cross entropy if that is more than
        twice as large.
    """
    cosines = cosines.double()
    right = cosines.gather(1, labels[:, None])[:, 0]
    wanted = (1 - SMOOTHING) * right + SMOOTHING * cosines.mean(1)
    low, high = USUAL_LOGIT_SCALE, MOST_LOGIT_SCALE
    while len(cosines) and high - low > TOLERANCE * low:
        middle = (low * high) ** 0.5
        expected = ((middle * cosines).softmax(1) * cosines).sum(1)
        falls = float((expected - wanted).mean()) < 0
        low, high = (middle, high) if falls else (low, middle)
    return float(f"{low:.3g}") if low > 2 * USUAL_LOGIT_SCALE else USUAL_LOGIT_SCALE


def _left_out(
    features: Float[Tensor, "n c"],
    sums: Float[Tensor, "k c"],
    labels: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "m k"], Int[Tensor, " m"]]:
    """Cosines with class means, every example left out of that of its own class.

    Returns:
        The cosines of the examples that are not the only one of their class, and their
        classes.
    """
    others = torch.bincount(labels, minlength=len(sums))[labels] > 1
    features, labels = features[others], labels[others]
    cosines = features @ normalize(sums, dim=-1).mT
    without = normalize(sums[labels] - features, dim=-1)
    own = (without * features).sum(1, keepdim=True)
    return cosines.scatter(1, labels[:, None], own), labels


def linear_head(
    network: Network,
    examples: LabelledExamples,
    indices: Sequence[int],
    *,
    decay: float = LINEAR_DECAY,
    batch_size: int = 64,
) -> LinearHead:
    """Fit a linear layer to the pretrained outputs by logistic regression.

    It is the minimum of ``mean cross entropy + decay / 2 · ‖W‖²``, which is convex; the
    bias is free.

    Args:
        network: The pretrained network.
        examples: Labelled examples.
        indices: Numbers of the examples to fit to.
        decay: Weight of the squared norm; above 0, or examples that can be told apart
            would make W grow without end.
        batch_size: Examples per forward pass.

    Returns:
        The head.

    Raises:
        SettingsError: If a class has no example among them, or the decay is not above
            0.
    """
    if not 0 < decay < float("inf"):
        raise SettingsError(
            f"the decay of a linear head must be above 0, found {decay}"
        )
    labels = _labels(examples, indices, "linear head")
    features = _outputs(network, examples, indices, batch_size).double()
    count = len(examples.classes)
    W = torch.zeros(count, features.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    fit = torch.optim.LBFGS(
        [W, b],
        max_iter=LINEAR_STEPS,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        fit.zero_grad()
        value = cross_entropy(features @ W.mT + b, labels)
        value = value + decay / 2 * W.square().sum()
        value.backward()
        return value

    fit.step(loss)
    return LinearHead(W.detach().float(), b.detach().float(), tuple(examples.classes))


def _labels(examples: LabelledExamples, indices: Sequence[int], what: str) -> Tensor:
    """The classes of some examples; none may be without."""
    if len(examples.labels) < len(examples):
        raise SettingsError(
            f"no {what}: {len(examples)} examples have {len(examples.labels)} labels; "
            "read them with the column or the folders of their classes (label_column=)"
        )
    labels = torch.tensor([examples.labels[i] for i in indices])
    counts = torch.bincount(labels, minlength=len(examples.classes))
    empty = int((counts == 0).sum())
    if empty:
        raise SettingsError(
            f"no {what} for {empty} of {len(counts)} classes: none of the "
            f"{len(indices)} examples is of them; take more, or texts for the classes"
        )
    return labels


@torch.no_grad()
def _outputs(
    network: Network,
    examples: LabelledExamples,
    indices: Sequence[int],
    batch_size: int,
) -> Float[Tensor, "n c"]:
    """The pretrained outputs of some examples, on the CPU."""
    starts = range(0, len(indices), batch_size)
    batches = (examples.batch(indices[i : i + batch_size]) for i in starts)
    return torch.cat([network(batch).float().cpu() for batch in batches])
