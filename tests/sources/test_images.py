"""Odd images and odd folders: what is read beside what the files hold."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.image_folder import endings, list_images
from kfac_artifacts.sources.pixels import UnreadableImage, read_rgb

GREY = (np.arange(48).reshape(6, 8) * 5).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = GREY.astype(np.uint16) * 257


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def opaque(array: np.ndarray) -> np.ndarray:
    """With a channel of transparency that hides half of it."""
    return np.dstack([array, np.where(GREY > 100, 255, 0).astype(np.uint8)])


HELD = {
    "8 bits": (GREY, "png", grey(GREY)),
    "colours": (COLOUR, "png", COLOUR),
    "16 bits": (DEEP, "png", grey(GREY)),
    "16 bits of tiff": (DEEP, "tiff", grey(GREY)),
    "16 bits of pgm": (DEEP, "pgm", grey(GREY)),
    "16 bits of jpeg 2000": (DEEP, "jp2", grey(GREY)),
    "high byte first": (DEEP.astype(">u2"), "tiff", grey(GREY)),
    "black and white": (GREY > 100, "png", grey(np.where(GREY > 100, 255, 0))),
    "grey and alpha": (opaque(GREY), "png", grey(GREY)),
    "colours and alpha": (opaque(COLOUR), "png", COLOUR),
    "bitmap": (COLOUR, "bmp", COLOUR),
    "targa": (COLOUR, "tga", COLOUR),
    "tiff of colours": (COLOUR, "tiff", COLOUR),
    "quite ok": (COLOUR, "qoi", COLOUR),
}


@pytest.mark.parametrize("case", HELD)
def test_an_image_is_read_as_it_is(case: str, tmp_path: Path) -> None:
    array, ending, expected = HELD[case]
    path = tmp_path / f"image.{ending}"
    Image.fromarray(array).save(path)
    for source in (path, path.read_bytes()):
        image = read_rgb(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), expected)


def test_grey_of_12_bits_is_scaled_by_its_own_depth(tmp_path: Path) -> None:
    path, values = tmp_path / "x.tiff", GREY.astype(np.int64).flatten() * 16
    pairs = [(a << 12) | b for a, b in zip(values[::2], values[1::2], strict=True)]
    packed = b"".join(int(pair).to_bytes(3, "big") for pair in pairs)
    tags = {256: 8, 257: 6, 258: 12, 259: 1, 262: 1, 277: 1, 278: 6, 279: len(packed)}
    fields = sorted((tags | {273: 8 + 2 + 12 * 9 + 4}).items())
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(fields))
    path.write_bytes(head + entries + bytes(4) + packed)
    assert np.array_equal(np.asarray(read_rgb(path)), grey(GREY))


def test_grey_of_16_bits_where_zero_is_white_is_inverted(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    Image.fromarray(65535 - DEEP).save(path, tiffinfo={262: 0})
    assert np.array_equal(np.asarray(read_rgb(path)), grey(GREY))


@pytest.mark.parametrize(
    "mode", ["CMYK", "YCbCr", "P", "P;transparent", "P;bytes", "L;frames"]
)
def test_modes_with_colours_of_their_own_come_close(mode: str, tmp_path: Path) -> None:
    image, path = Image.fromarray(COLOUR), tmp_path / "x.tiff"
    if mode.startswith("P"):
        path = path.with_suffix(".png")
        image = image.quantize(200)
        hidden = {"P;transparent": 0, "P;bytes": bytes(range(200))}.get(mode)
        image.save(path, **({} if hidden is None else {"transparency": hidden}))
    elif mode == "L;frames":
        path = path.with_suffix(".gif")
        other = Image.new("RGB", image.size, "red")
        image.save(path, save_all=True, append_images=[other, other])
    else:
        image.convert(mode).save(path)
    found = np.asarray(read_rgb(path)).astype(int)
    assert np.abs(found - COLOUR).mean() < 12


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (GREY.astype(np.float32) / 255, r"floating point \(mode F\)"),
        (GREY.astype(np.int32) * 2**20, r"32 bits \(mode I\)"),
    ],
)
def test_numbers_without_a_white_are_refused(
    array: np.ndarray, reason: str, tmp_path: Path
) -> None:
    Image.fromarray(array).save(tmp_path / "x.tiff")
    with pytest.raises(UnreadableImage, match=f"{reason}.*8 or 16 bits"):
        read_rgb(tmp_path / "x.tiff")


@pytest.mark.parametrize("array", [COLOUR, DEEP, GREY])
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_an_image_is_turned_as_the_camera_says(
    array: np.ndarray, ending: str, tmp_path: Path
) -> None:
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / f"x.{ending}", exif=exif)
    found = np.asarray(read_rgb(tmp_path / f"x.{ending}"))
    upright = COLOUR if array is COLOUR else grey(GREY)
    assert np.array_equal(found, np.rot90(upright, -1))


@pytest.mark.parametrize("cut", [0, 1, 20, 60, 200])
@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "gif", "webp", "bmp"])
def test_a_broken_image_is_one_line(cut: int, ending: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    path = tmp_path / f"x.{ending}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    for source in (path, path.read_bytes()):
        with pytest.raises(UnreadableImage) as caught:
            read_rgb(source)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_a_bomb_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImage, match=r"48 pixels.*exceeds"):
        read_rgb(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # a warning, which is not shown
    assert read_rgb(tmp_path / "x.png").size == (8, 6)


def draw(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOUR).save(root / name, format="png")
    return root


def test_what_is_no_data_is_left_out_and_said(tmp_path: Path) -> None:
    root = draw(
        tmp_path,
        *("cat/1.PNG", "cat/deep/2.jfif", "dog/3.Jpeg", "dog/._3.jpg", "cat/.4.png"),
        *("__MACOSX/cat/._1.png", ".ipynb_checkpoints/5.png", "@eaDir/6.jpg"),
        *("dog/7.heic", "dog/8.eps"),
    )
    (root / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    (root / "LICENSE").write_text("x")
    (root / "fish").mkdir()
    (root / "dog" / "9.png").symlink_to(root / "nowhere.png")
    found = list_images(root, None, labelled=True)
    assert found.names == ["cat/1.PNG", "cat/deep/2.jfif", "dog/3.Jpeg"]
    assert found.classes == ["cat", "cat", "dog"]
    said = "; ".join(found.notes)
    for part in (
        *("6 hidden", "1 broken link", "1 .heic (images, but not read here)"),
        *("1 .eps", "3 other files (", ".txt", ".db", "no ending", "no images in fish"),
    ):
        assert part in said, (part, said)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = draw(tmp_path / "elsewhere", "1.png", "2.png")
    root = draw(tmp_path / "pets", "cat/3.png")
    (root / "dog").symlink_to(elsewhere)
    (root / "cat" / "4.png").symlink_to(elsewhere / "1.png")
    (root / "cat" / "round").symlink_to(root)
    (elsewhere / "here").symlink_to(elsewhere)
    found = list_images(root, None, labelled=True)
    assert found.names == ["cat/3.png", "cat/4.png", "dog/1.png", "dog/2.png"]
    assert found.classes == ["cat", "cat", "dog", "dog"]
    assert "2 link back to a folder above" in "; ".join(found.notes)


def test_a_stray_image_takes_no_labels_away_in_silence(tmp_path: Path) -> None:
    root = draw(tmp_path / "pets", "cat/1.png", "dog/2.png", "cover.png")
    with pytest.raises(SourceError, match=r"1 image \(cover.png\) beside the folders"):
        list_images(root, None, labelled=True)
    found = list_images(root, None, labelled=False)
    assert (len(found.names), found.classes) == (3, ())
    assert "so there are no classes" in found.notes[0]


def test_train_is_a_split_beside_splits_and_a_class_beside_classes(
    tmp_path: Path,
) -> None:
    sets = draw(tmp_path / "sets", "train/cat/1.png", "test/cat/2.png", "notes/3.png")
    found = list_images(sets, None, labelled=True)
    assert (found.split, found.names, found.classes) == (
        "train",
        ["cat/1.png"],
        ["cat"],
    )
    assert found.notes == ["not of notes, test"]
    vehicles = draw(tmp_path / "vehicles", "train/1.png", "ship/2.png")
    found = list_images(vehicles, None, labelled=True)
    assert (found.split, found.classes) == (None, ["ship", "train"])


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_beside_images_are_said(name: str, tmp_path: Path) -> None:
    root = draw(tmp_path, "1.png", "2.png")
    (root / name).write_text("file_name,label\n1.png,a\n2.png,b\n")
    (note,) = list_images(root, None, labelled=False).notes
    assert f"{name} is not read: to use it, give this file as the data" in note


def test_a_folder_without_an_image_that_is_read_says_what_it_holds(
    tmp_path: Path,
) -> None:
    draw(tmp_path, "1.heic", "2.HEIC", "3.txt")
    message = (
        r"no images in the folder .*2 \.heic .*not read here.*1 other file "
        r".*texts are given as one file"
    )
    with pytest.raises(SourceError, match=message):
        list_images(tmp_path, None, labelled=False)


def test_every_ending_that_pil_decodes_is_read() -> None:
    assert {".jfif", ".avif", ".jp2", ".tga", ".webp", ".pbm"} <= endings()
    assert not {".eps", ".ps", ".h5", ".mpg", ".txt", ".pdf"} & endings()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    root = draw(tmp_path / "pets", "cat/1.png", "dog/2.png")
    (root / "dog").chmod(0)
    try:
        with pytest.raises(SourceError, match="dog cannot be read: Permission denied"):
            list_images(root, None, labelled=True)
    finally:
        (root / "dog").chmod(0o700)
