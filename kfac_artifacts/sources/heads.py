"""Classifiers for the classes of a dataset: of class texts, of means, or fitted."""

from collections.abc import Sequence
from pathlib import Path

from kfac_artifacts.choices import HEADS
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.network import LabelledExamples, Network
from kfac_artifacts.sources.decoder_start import token_head
from kfac_artifacts.sources.encode import encode_texts
from kfac_artifacts.sources.model_heads import FIRST
from kfac_artifacts.sources.own_head import own_head
from kfac_artifacts.task_vector import Head
from kfac_artifacts.train import (
    check_names,
    class_texts,
    linear_head,
    model_logit_scale,
    prototype_head,
    read_texts,
    scale_for,
    text_head,
)


def make_head(
    network: Network,
    examples: LabelledExamples,
    kind: str | None = None,
    *,
    texts: Sequence[str] | Path | None = None,
    template: str = "{}",
    logit_scale: float | None = None,
    indices: Sequence[int] | None = None,
    prompt: str | None = None,
) -> Head:
    """Make a frozen classifier for the classes of some examples.

    Args:
        network: The pretrained network.
        examples: Labelled examples.
        kind: ``texts`` classifies by encoded class texts (where f is the start of a
            decoder, by the tokens that they begin with), ``prototypes`` by the means
            of the pretrained outputs of each class, ``linear`` by a linear layer that
            is fitted to them, ``own`` by the classifier that the checkpoint has itself;
            None for texts, if the names of the classes are words.
        texts: A text per class in their order, or a file with them (``read_texts``);
            None for the names of the classes.
        template: Text around the name of a class, with ``{}`` in its place.
        logit_scale: Factor from cosines to logits; None for the model's own, or 20, or
            what fits the examples best if that is more than twice as large.
        indices: Numbers of the examples to take means of, or to fit; None for all.
        prompt: Text before every class text; None for what the model declares.

    Returns:
        The head.

    Raises:
        SettingsError: If there is no such kind, it cannot tell the classes apart, the
            examples have no labels, or f is another number of outputs for every one.
        SourceError: If the checkpoint's own classifier is no chain of layers on f.
    """
    _check(network, kind, texts, logit_scale)
    if kind == "own":
        return own_head(network, examples)
    chosen = range(len(examples)) if indices is None else indices
    if kind == "linear":
        return linear_head(network, examples, chosen)
    scale = model_logit_scale(network) if logit_scale is None else logit_scale
    if kind == "prototypes":
        return prototype_head(network, examples, chosen, logit_scale=scale)
    rows = _texts(list(examples.classes), texts, template, named=kind is not None)
    if network.output_map.info.name == FIRST:
        return token_head(network, examples.classes, rows)
    embeddings = encode_texts(network, rows, prompt=prompt).float().cpu()
    if scale is None:
        scale = scale_for(network, examples, chosen, embeddings)
    return text_head(embeddings, examples.classes, logit_scale=scale)


def _check(
    network: Network,
    kind: str | None,
    texts: Sequence[str] | Path | None,
    logit_scale: float | None,
) -> None:
    """Refuse what there is no head of."""
    if network.output_map.ragged:
        raise SettingsError(
            f"f of {network.id} is {network.output_map.info.name}, a distribution for "
            "every token, which no head classifies; give --output-map embedding"
        )
    if kind not in {None, *HEADS}:
        raise SettingsError(f"head {kind!r} is unknown; use one of {', '.join(HEADS)}")
    if texts is not None and kind not in {None, "texts"}:
        raise SettingsError(f"class texts go with a head of texts, not with {kind}")
    of_tokens = network.output_map.info.name == FIRST and kind in {None, "texts"}
    if logit_scale is not None and (of_tokens or kind in {"linear", "own"}):
        raise SettingsError(
            f"a logit scale is for cosines, not for a head {kind or 'of tokens'!r}"
        )


def _texts(
    classes: Sequence[str],
    texts: Sequence[str] | Path | None,
    template: str,
    *,
    named: bool,
) -> Sequence[str]:
    """A text for each of the classes; bare numbers only if texts are asked for."""
    if not named and texts is None and template == "{}":
        check_names(classes)
    if isinstance(texts, Path):
        return read_texts(texts, classes)
    return class_texts(classes, template) if texts is None else texts
