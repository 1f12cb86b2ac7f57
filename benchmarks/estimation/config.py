"""Which sizes there are, and what one measurement is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A transformer's size, and how many examples of it make a fair measurement.

    Attributes:
        width: Of the hidden states; the feed-forward width is four times it.
        layers: Number of layers.
        tokens: Positions per text; None for an image of 224 x 224 pixels.
        patch: Side of an image's patches in pixels; None for text.
        examples: How many to use unless told otherwise.
        batch_size: How many at once unless told otherwise.
    """

    width: int
    layers: int
    tokens: int | None
    patch: int | None
    examples: int
    batch_size: int


SIZES = {
    "vit-b-32": Size(768, 12, None, 32, examples=64, batch_size=32),
    "vit-b-16": Size(768, 12, None, 16, examples=32, batch_size=8),
    "bert-base": Size(768, 12, 128, None, examples=32, batch_size=8),
    "minilm": Size(384, 6, 64, None, examples=64, batch_size=16),
    "tiny": Size(32, 2, 8, None, examples=8, batch_size=4),
}


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        model: A key of ``SIZES``.
        layers: Number of layers to keep.
        examples: Number of examples, a multiple of the batch size.
        batch_size: Examples per pass.
        device: Where to compute.
        threads: Number of threads on the CPU.
    """

    model: str
    layers: int
    examples: int
    batch_size: int
    device: str
    threads: int
