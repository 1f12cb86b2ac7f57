"""Pixels of image files, whatever their mode, as RGB of 8 bits.

As in ``transformers``: turned as the camera says (EXIF), of several frames the first,
transparency dropped. Grey of 16 bits keeps its upper 8, as PIL does with colours; other
numbers (32 bits, floating point) have no brightness of their own and are refused.
"""

import io
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
ORIENTATION = 0x0112
THROUGH = {"RGBa": "RGBA", "La": "LA"}
"""Modes that PIL converts to RGB by way of another."""


class UnreadableImage(ValueError):  # noqa: N818 - it says what happened
    """An image cannot be read, with the reason in one line."""


def read_rgb(source: Path | bytes) -> Image.Image:
    """Read an image.

    Args:
        source: Its file, or what would be in it.

    Returns:
        The image, of mode ``RGB``.

    Raises:
        UnreadableImage: If it is damaged, of an unknown format, or of a mode whose
            numbers are no brightness.
        MemoryError: If there is no room for it.
    """
    try:
        # An open file, since PIL maps a named one, and then mixes up turned TIFFs.
        with _opened(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large images
            with Image.open(file) as image:
                image.load()
                return ImageOps.exif_transpose(_rgb(image))
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            "it is no image, or of a format that is not read here"
        ) from error
    except Exception as error:  # decoders raise anything when a file is damaged
        said = getattr(error, "strerror", None) or str(error).strip()
        reason = (said or type(error).__name__).splitlines()[0]
        raise UnreadableImage(reason) from error


def _opened(source: Path | bytes) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _of_16_bits(image)
    if image.mode == "I" and image.format in {"PNG", "PPM"}:  # at most 16 bits
        return _grey(np.asarray(image, dtype=np.int64).clip(0, 65535) >> 8, image)
    if image.mode in {"I", "F"}:
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating point"
        raise UnreadableImage(
            f"its pixels are {kind} (mode {image.mode}), of which it is not known what "
            "is white; save it with 8 or 16 bits"
        )
    if "transparency" in image.info and image.mode == "P":
        image = _converted(image, "RGBA")
    elif image.mode in THROUGH:
        image = _converted(image, THROUGH[image.mode])
    return image if image.mode == "RGB" else _converted(image, "RGB")


def _of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # PIL leaves these as they are
        values = 2**bits - 1 - values
    return _grey(values >> (bits - 8), image)


def _grey(values: Pixels, of: Image.Image) -> Image.Image:
    grey = Image.fromarray(values.astype(np.uint8)).convert("RGB")
    grey.getexif()[ORIENTATION] = of.getexif().get(ORIENTATION, 1)
    return grey


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise UnreadableImage(
            f"its mode, {image.mode}, has no way to RGB; save it as RGB"
        ) from error
