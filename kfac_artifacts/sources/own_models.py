"""Models that a function of the user's gives: plain torch, timm, anything.

``module:function`` names a function without arguments. It gives a ``Network``, or a
pair of one and what encodes data for it: from a list of texts (or of pairs of texts),
or of RGB images, to the batch that the output map takes.

Importing the module and calling the function runs their code: it is the user's own,
from the current directory or installed, never that of a downloaded model.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError, first_line
from kfac_artifacts.network import Network

FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class OwnEncoder:
    """What the user's function gave to encode data with.

    Attributes:
        encode: From a list of texts, pairs or images to a batch.
        name: What the function is called.
    """

    encode: Callable[[list[Any]], Any]
    name: str

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Encode rows of texts, or images.

        Args:
            rows: The texts of each example, in a tuple; or images.

        Returns:
            The batch.

        Raises:
            SourceError: If it is none, or has not one entry for each example.
        """
        alone = all(isinstance(row, tuple) and len(row) == 1 for row in rows)
        batch = self.encode([row[0] for row in rows] if alone else list(rows))
        good = isinstance(batch, dict) and all(
            isinstance(t, Tensor) and t.ndim and len(t) == len(rows)
            for t in batch.values()
        )
        if not good or not batch:
            raise SourceError(
                f"the encoder of {self.name} gives no batch: it must be a dict of "
                f"tensors with one entry for each of {len(rows)} examples"
            )
        return dict(batch)

    @property
    def configuration(self) -> dict[str, Json]:
        """How data become a batch, as recorded in artifacts."""
        return {"encoder": self.name}


@dataclass(eq=False)
class OwnNetwork(Network):
    """A network that a function of the user's gave.

    Attributes:
        encoder: What encodes data for it, if the function gave it.
        function: What the function is called.
    """

    encoder: OwnEncoder | None = None
    function: str = ""


def is_function(model: str | Path) -> bool:
    """Whether a model is named as ``module:function``."""
    return bool(FUNCTION.fullmatch(str(model))) and not Path(model).exists()


def refuse_function(model: str | Path, what: str) -> None:
    """Refuse a model that a function gives where a checkpoint is needed.

    Args:
        model: The model, by name.
        what: What needs it, for the error.

    Raises:
        SourceError: If the model is named as ``module:function``.
    """
    if is_function(model):
        raise SourceError(f"{model} is a function, and {what}")


def load_own(model: str, *, model_id: str | None = None) -> OwnNetwork:
    """Import a module and call its function; this runs code.

    Args:
        model: ``module:function``; the module is in the current directory, or
            installed.
        model_id: What to call the model; None for what the network says.

    Returns:
        The network, in evaluation mode.

    Raises:
        SourceError: If there is no such function, it fails, or it gives something else.
    """
    place, _, name = model.partition(":")
    try:
        with _here():
            found = getattr(import_module(place), name)()
    except Exception as error:  # the user's own code may fail in any way
        raise SourceError(
            f"{model} cannot be called ({type(error).__name__}: {first_line(error)}); "
            "it must be a function without arguments, of a module in the current "
            "directory or installed. KFAC_DEBUG=1 shows where it fails"
        ) from error
    both = isinstance(found, tuple) and len(found) == 2
    network, encode = found if both else (found, None)
    if not isinstance(network, Network) or not (encode is None or callable(encode)):
        raise SourceError(
            f"{model} gives a {type(found).__name__}; it must give a "
            "kfac_artifacts.Network, or a pair of one and a function that encodes data"
        )
    network.module.eval()
    encoder = None if encode is None else OwnEncoder(encode, model)
    return OwnNetwork(
        network.module,
        network.output_map,
        model_id or network.id,
        network.revision,
        encoder,
        model,
    )


def blank_batch(
    network: OwnNetwork, count: int, *, tokens: int | None, image_size: int | None
) -> dict[str, Tensor]:
    """Encode examples without content as the user's function does.

    Args:
        network: What the function gave.
        count: Number of examples.
        tokens: Texts of so many words of one letter; None for no texts.
        image_size: Black images of so many pixels a side; None for no images.

    Returns:
        The batch.

    Raises:
        SourceError: If it gave no encoder, or not one of the two is said.
    """
    if network.encoder is None:
        raise SourceError(
            f"{network.function} gives no encoder to make a batch with; in Python, "
            "kfac_artifacts.plan takes one"
        )
    if (tokens is None) == (image_size is None):
        raise SourceError(
            f"say how large an example of {network.function} is: the words of a text "
            "(--tokens) or the pixels of an image's side (--image-size)"
        )
    if image_size is not None:
        image = Image.new("RGB", (image_size, image_size))
        return network.encoder([image.copy() for _ in range(count)])
    return network.encoder([(" ".join(["a"] * (tokens or 0)),)] * count)


@contextmanager
def _here() -> Iterator[None]:
    """Let modules of the current directory be imported for a while."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
