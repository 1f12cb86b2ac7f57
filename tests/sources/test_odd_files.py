"""Files that are not what their names say, names that no manifest can hold, and so on.

What is read is what a careful person would say that the file holds; else one error says
what is there and what to do, and shows no cell.
"""

import gzip
import io
import json
import tarfile
import unicodedata
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import feather

from kfac_artifacts.errors import SourceError
from kfac_artifacts.names import as_name, is_name
from kfac_artifacts.network import Network
from kfac_artifacts.sources import Columns, Layout, load_examples, read_data
from kfac_artifacts.sources.description import Description
from kfac_artifacts.sources.naming import data_name
from kfac_artifacts.train import read_texts
from tests.models import SavedModel

LABELLED = Columns(label="label")
PLAIN = b"text,label\na b,x\nc,y\n"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def read(path: Path, columns: Columns = LABELLED, layout: Layout | None = None) -> Any:
    data = read_data(str(path), columns=columns, layout=layout or Layout())
    (column,) = data.texts()
    labels = [data.labels.classes[i] for i in data.labels.indices]
    account = data.table.account((column,), None, None)
    return list(data.table.columns[column]), labels, account


def draw(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(root / name, format="png")
    return root


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na b,x\nc,y\n,\n , \n", "2 blank lines skipped"),
        ("text,label\n,,,\na b,x\nc,y\n,,,\n", "2 blank lines skipped"),
        (",\ntext,label\na b,x\nc,y\n", "1 blank line skipped"),
        ("SEP=;\ntext;label\na b;x\nc;y\n", "2 rows read (divided by semicolon)"),
        ('"sep=;"\ntext;label\na b;x\nc;y\n', "2 rows read (divided by semicolon)"),
    ],
)
def test_rows_that_a_spreadsheet_adds_are_no_data(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    texts, labels, account = read(path)
    assert (texts, labels) == (["a b", "c"], ["x", "y"])
    assert said in account


def test_a_first_row_that_only_begins_as_excels_own_is_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sep=arated by a word\nanother\n")
    texts, _, _ = read(path, Columns(("1",)), Layout(header=False))
    assert texts == ["sep=arated by a word", "another"]


def packed(kind: str) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("secret.csv", PLAIN)
    elif kind == "tar":
        with tarfile.open(fileobj=content, mode="w") as archive:
            entry = tarfile.TarInfo("t.csv")
            entry.size = len(PLAIN)
            archive.addfile(entry, io.BytesIO(PLAIN))
    elif kind == "feather":
        feather.write_feather(pa.table({"text": ["secret"]}), content)
    else:
        pq.write_table(pa.table({"text": ["secret"]}), content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", packed("zip"), "a zip archive or an Excel workbook.*save it as csv"),
        ("t.tsv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99, "an old Excel"),
        ("t.csv", packed("parquet"), r"holds parquet.*call it \.parquet"),
        ("t.json", packed("feather"), "holds Arrow.*write it as parquet"),
        ("t.csv", b"SQLite format 3\0secret", "an SQLite database.*export"),
        ("t.csv", b"\n<!DOCTYPE html><p>secret", "a web page.*download the file"),
        ("t.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("t.csv", packed("tar"), "a tar archive.*unpack it"),
        ("t.csv.gz", gzip.compress(packed("tar")), "a tar archive.*unpack it"),
        ("t.csv.gz", gzip.compress(gzip.compress(PLAIN)), "unpack it once"),
        ("t.csv.gz", gzip.compress(PLAIN) + b"secret", "followed by something else$"),
        ("t.xlsx", b"PK", "is no table.*open the workbook and save it as csv"),
        ("t.arrow", b"x", "is no table.*write it as parquet"),
        ("t.tar.gz", b"x", "is no table.*unpack it, and give the table"),
        ("t.txt", PLAIN, r"is no table.*call it \.csv or \.tsv"),
        ("t", PLAIN, r"is no table.*call it \.csv or \.tsv"),
        ("t.db", b"x", "is no table.*export the table"),
        ("t.csv", "text^label\na^x\n", "are not|is not shown.*--delimiter"),
        ("t.csv", "|text|label|\n|:--|---|\n|secret|x|\n", "a table of Markdown"),
        ("t.csv", "text,label\na,x\n\ufefftext,label\nb,y\n", "line 3 is the same"),
        ("t.tsv", "text\tlabel\na\tx\ntext\tlabel\n", "line 3 is .*--no-header"),
        ("t.csv", "text,label\n", "no row below the header"),
        ("t.jsonl", '{"data": [\n{"text": "secret"}]}', "in no other object"),
        ("t.jsonl", '{"text": "sec\tret"}', "Invalid control character at character"),
    ],
    ids=lambda value: "bytes" if isinstance(value, bytes) else None,  # of any time
)
def test_what_is_no_table_is_told_with_what_to_do(
    tmp_path: Path, name: str, content: bytes | str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SourceError, match=message) as caught:
        read(path)
    assert "secret" not in str(caught.value)


def test_keys_that_may_be_texts_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content in (
        {"secret one": "x", "secret two": "y"},
        [{"secret one": "x"}, {"secret two": "y"}],
    ):
        path.write_text(json.dumps(content))
        for columns in (Columns(), LABELLED, Columns(("secrets one",))):
            with pytest.raises(SourceError, match="2, whose names are not") as caught:
                read(path, columns)
            assert "secret " not in str(caught.value)
    path.write_text('[{"phrase": "a", "kind": "x"}, {"phrase": "b", "kind": "y"}]')
    with pytest.raises(SourceError, match="columns are phrase, kind"):
        read(path, Columns())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "no data are named"),
        (" ", "no data are named"),
        ("-", "no file that can be read twice"),
        ("link.csv", "is a link to what is not there"),
    ],
)
def test_data_that_are_no_file_are_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("nowhere.csv")
    with pytest.raises(SourceError, match=message):
        read_data(data)


def test_a_class_is_one_however_its_letters_are_composed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\na,{COMPOSED}\nb,{DECOMPOSED}\nc,x\n")
    _, labels, _ = read(path)
    assert labels == [COMPOSED, COMPOSED, "x"]
    known = Columns(label="label", classes=["x", DECOMPOSED])  # as a head was saved
    assert read(path, known)[1] == [DECOMPOSED, DECOMPOSED, "x"]
    root = draw(
        tmp_path / "pets", f"{DECOMPOSED}/1.png", f"{COMPOSED}/2.png", "x/3.png"
    )
    assert read_data(str(root), columns=LABELLED).labels.classes == [COMPOSED, "x"]
    (tmp_path / "of.json").write_text(json.dumps({DECOMPOSED: "a bar", "x": "an x"}))
    assert read_texts(tmp_path / "of.json", [COMPOSED, "x"]) == ["a bar", "an x"]
    (tmp_path / "of.txt").write_bytes("\ufeffa\u2028bar\r\nan x\r\n".encode())
    assert read_texts(tmp_path / "of.txt", ["a", "b"]) == ["a\u2028bar", "an x"]


@pytest.mark.parametrize(
    "label",
    ["secret\nline", "secret\u200b", "\x1b[31msecret", "secret " * 99, "\ud83d"],
)
def test_a_class_that_no_task_vector_can_hold_is_told_before_the_work(
    tmp_path: Path, label: str
) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": label}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(SourceError, match=r"1 class that cannot be.*line 2") as caught:
        read(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["x", "y"], [0.0, 0.5], "row 2"),
        (["x", "y"], [Decimal("1.5"), Decimal(1)], "row 1"),
        (["x", "y"], [date(2024, 1, 2)] * 2, "something else: rows 1, 2"),
        (["x", "x "], [0, 1], "by one name"),
        (["x", "secret\n"], [0, 2], "beyond the 2"),
        (["x", "secret\nline"], [0, 1], "1 class that cannot be named"),
    ],
)
def test_declared_classes_that_are_none_are_told(
    tmp_path: Path, names: list[str], values: list[object], message: str
) -> None:
    path = tmp_path / "t.parquet"
    write_declared(path, names, values)
    with pytest.raises(SourceError, match=message) as caught:
        read(path)
    assert "secret" not in str(caught.value)


def write_declared(path: Path, names: object, values: list[object]) -> None:
    features = {"label": {"_type": "ClassLabel", "names": names}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b"], "label": values})
    pq.write_table(table.replace_schema_metadata(about), path)


def test_a_declaration_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    for names in (5, {"0": "x"}, [1, 2], None):
        write_declared(tmp_path / "t.parquet", names, [0, 1])
        assert read(tmp_path / "t.parquet")[1] == ["0", "1"]
    write_declared(tmp_path / "t.parquet", ["x", "y"], [1.0, 0.0])
    assert read(tmp_path / "t.parquet")[1] == ["y", "x"]


def test_one_class_is_told_to_who_trains(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,x\n")
    data = read_data(str(path), columns=LABELLED)
    with pytest.raises(SourceError, match=r"one class.*--label-column"):
        data.check_classes()
    data.with_classes(["x", "y"]).check_classes()


def test_every_file_has_a_name_that_a_manifest_can_hold() -> None:
    for odd in ("a\nb", "a\u200cb", "\udcff", "\x1b[31m", "a\u202eb"):
        assert is_name(data_name(Path("/srv") / odd / f"{odd}.csv"))
        with pytest.raises(SourceError, match="cannot name data"):
            Description(odd)
    assert is_name(data_name(Path(f"/{'a' * 250}/{'data' * 60}/data/train.csv")))
    assert as_name("a\nb é") == "a_b é"
    assert not is_name("")


@pytest.mark.parametrize("columns", [("text", "text"), ("label",), ("text", "label")])
def test_a_column_is_not_used_twice(tmp_path: Path, columns: tuple[str, ...]) -> None:
    (tmp_path / "t.csv").write_bytes(PLAIN)
    with pytest.raises(SourceError, match=r"twice.*--text-column"):
        read_data(str(tmp_path / "t.csv"), columns=Columns(columns, label="label"))


def test_columns_may_be_numbers_or_one_string(tmp_path: Path, bert: Network) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a b,x\nc,y\n")
    for text in ([1], ["1"], "1"):
        examples = load_examples(
            path, bert, text_columns=text, label_column=2, header=False
        )
        assert examples.texts([0, 1]) == [("a b",), ("c",)]
        assert examples.classes == ["x", "y"]


@pytest.fixture(scope="module")
def bert(saved_model: SavedModel) -> Network:
    from kfac_artifacts.sources import load_network

    return load_network(str(saved_model("bert")))


@pytest.mark.parametrize(
    ("names", "split", "classes"),
    [
        (("Train/cat/1.png", "Train/dog/2.png", "Test/cat/3.png"), "Train", 2),
        (("training/cat/1.png", "training/dog/2.png"), "training", 2),
        (("test/cat/1.png", "test/dog/2.png"), "test", 2),
    ],
)
def test_a_split_is_no_class_whatever_it_is_called(
    tmp_path: Path, names: tuple[str, ...], split: str, classes: int
) -> None:
    data = read_data(str(draw(tmp_path / "pets", *names)), columns=LABELLED)
    assert (data.description.split, len(data.labels.classes)) == (split, classes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val/cat/1.png", "test/cat/2.png"), r"splits test, val; choose one.*--split"),
        (("all/cat/1.png", "all/dog/2.png"), "one folder all.*classes are cat, dog"),
        (("1.png", "2.png"), r"no folders of classes.*metadata\.csv is not read"),
    ],
)
def test_folders_that_are_no_classes_are_told_to_who_asks_for_labels(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    root = draw(tmp_path / "pets", *names)
    (root / "metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    with pytest.raises(SourceError, match=message):
        read_data(str(root), columns=LABELLED)


def test_folders_within_classes_are_said(tmp_path: Path) -> None:
    root = draw(tmp_path / "pets", "cat/old/1.png", "cat/2.png", "dog/new/3.png")
    data = read_data(str(root), columns=LABELLED)
    assert data.labels.classes == ["cat", "dog"]
    assert "2 images in folders within those at the top" in data.table.notes[0]


def test_images_that_are_not_there_are_told_before_the_work(tmp_path: Path) -> None:
    root = draw(tmp_path / "pets", "cat/1.png", "dog/2.png")
    (root / "cat" / "3.png").touch()
    with pytest.raises(SourceError, match=r"1 image \(cat/3\.png\) of 0 bytes"):
        read_data(str(root))
    table = root / "t.csv"
    table.write_text("image,label\ncat/1.png,a\nsecret.png,b\nhttps://a.b/c.png,b\n")
    with pytest.raises(SourceError, match=r"2 files that .*lines 3, 4") as caught:
        read_data(str(table))
    assert "secret" not in str(caught.value)
    table.write_text(f"image,label\ncat/1.png,a\n{root}/dog/2.png,b\n")
    assert read_data(str(table)).images() == "image"


def test_a_folder_of_tables_says_how_texts_are_given(tmp_path: Path) -> None:
    pq.write_to_dataset(
        pa.table({"text": ["a", "b"], "label": ["x", "y"]}),
        tmp_path / "t.parquet",
        partition_cols=["label"],
    )
    with pytest.raises(SourceError, match=r"2 other files.*texts are given as"):
        read_data(str(tmp_path / "t.parquet"))
