"""What is read of odd tables, beside what the files hold: no torch, no model."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import unicodedata
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from kfac_artifacts.errors import SourceError
from kfac_artifacts.names import is_name
from kfac_artifacts.sources import Columns, Data, Layout, read_data
from kfac_artifacts.sources.tables import lines, unpack

SECRET = "secret"
LABELLED = Columns(label="label")
BOTH = ["a b", "c"], ["x", "y"]
"""Texts and labels of the plainest table."""


def write(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def texts_of(data: Data) -> list[str]:
    (column,) = data.texts()
    return list(data.table.columns[column])


def labels_of(data: Data) -> list[str]:
    return [data.labels.classes[i] for i in data.labels.indices]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


PLAIN = b"text,label\na b,x\nc,y\n"
HUGE = "a" * 200_000
LINES = b'{"text": "a b", "label": "x"}\n{"text": "c", "label": "y"}\n'
READ: list[tuple[str, bytes | str, Layout, tuple[list[str], list[str]], str]] = [
    ("plain.csv", PLAIN, Layout(), BOTH, "plain.csv: 2 rows read, column 'text'"),
    ("crlf.csv", PLAIN.replace(b"\n", b"\r\n"), Layout(), BOTH, ""),
    ("mac.csv", PLAIN.replace(b"\n", b"\r"), Layout(), BOTH, ""),
    ("bom.csv", b"\xef\xbb\xbf" + PLAIN, Layout(), BOTH, ""),
    ("quoted.csv", '\ufeff"text","label"\n"a b","x"\n"c","y"\n', Layout(), BOTH, ""),
    ("16.csv", PLAIN.decode().encode("utf-16"), Layout(), BOTH, "(utf-16)"),
    ("16.jsonl", LINES.decode().encode("utf-16"), Layout(), BOTH, "(utf-16)"),
    ("32.csv", PLAIN.decode().encode("utf-32"), Layout(), BOTH, "(utf-32)"),
    ("no.csv", "a b,x\nc,y\n", Layout(header=False), BOTH, "column '1', labels of '2'"),
    ("no.tsv", "a b\tx\nc\ty\n", Layout(header=False), BOTH, "labels of '2'"),
    ("gz.csv.gz", gzip.compress(PLAIN, mtime=0), Layout(), BOTH, "(gzip)"),
    ("gz.csv", gzip.compress(PLAIN, mtime=0), Layout(), BOTH, "(gzip)"),
    ("no-gz.csv.gz", PLAIN, Layout(), BOTH, ""),
    ("b.TSV.bz2", bz2.compress(PLAIN.replace(b",", b"\t")), Layout(), BOTH, "(bzip2)"),
    ("x.jsonl.xz", lzma.compress(LINES), Layout(), BOTH, "(xz)"),
    ("z.jsonl.zst", zstd(LINES[:30]) + zstd(LINES[30:]), Layout(), BOTH, "(zstd)"),
    ("list.json", f"[{','.join(LINES.decode().splitlines())}]", Layout(), BOTH, ""),
    ("blank.jsonl", b"\n" + LINES + b"\n\n", Layout(), BOTH, "3 blank lines skipped"),
    ("blank.csv", "text,label\n\na b,x\n   \nc,y\n\n", Layout(), BOTH, "3 blank lines"),
    ("semicolon.csv", "text;label\na, b;x\nc;y\n", Layout(),
     (["a, b", "c"], ["x", "y"]), "divided by semicolon"),
    ("commas.csv", "text;label\na, b;x\nc, d;y\n", Layout(),
     (["a, b", "c, d"], ["x", "y"]), "divided by semicolon"),
    ("bar.csv", "text|label\na b|x\nc|y\n", Layout(), BOTH, "divided by bar"),
    ("tab.csv", "text\tlabel\na, b\tx\nc\ty\n", Layout(),
     (["a, b", "c"], ["x", "y"]), "divided by tab"),
    ("comma.tsv", PLAIN, Layout(), BOTH, "divided by comma"),
    ("own.csv", "text~label\na b~x\nc~y\n", Layout("~"), BOTH, "divided by '~'"),
    ("excel.csv", "sep=;\ntext;label\na b;x\nc;y\n", Layout(), BOTH, "2 rows"),
    ("spaces.csv", " text , label \n a b,x \nc, y\n", Layout(),
     ([" a b", "c"], ["x", "y"]), "column 'text', labels of 'label'"),
    ("unnamed.csv", ",text,label,\n0,a b,x,\n1,c,y,\n", Layout(), BOTH, ""),
    ("twice.csv", "id,text,id,label\n0,a b,1,x\n0,c,1,y\n", Layout(), BOTH, ""),
    ("lines.csv", 'text,label\n"a\n\nb, ""c""",x\nc,y\n', Layout(),
     (['a\n\nb, "c"', "c"], ["x", "y"]), "2 rows read, column"),
    ("inches.csv", 'text,label\n5" wide,x\nc "d",y\n', Layout(),
     (['5" wide', 'c "d"'], ["x", "y"]), ""),
    ("words.csv", "text,label\nNA,None\nnull,nan\n", Layout(),
     (["NA", "null"], ["None", "nan"]), ""),
    ("zeros.csv", "text,label\n01,01\n1,1\n1.0,1.0\n007,007\n1e3,1e3\n", Layout(),
     (["01", "1", "1.0", "007", "1e3"], ["01", "1", "1.0", "007", "1e3"]), ""),
    ("guess.csv", "text,label\n2024-01-02,inf\ntrue,true\nFALSE,infinity\n", Layout(),
     (["2024-01-02", "true", "FALSE"], ["inf", "true", "infinity"]), ""),
    ("numbers.jsonl",
     '{"text": "a b", "label": 1.0}\n{"text": "c", "label": 1}\n', Layout(),
     (["a b", "c"], ["1.0", "1"]), ""),
    ("true.jsonl", '{"text": "a b", "label": true}\n{"text": "c", "label": false}',
     Layout(), (["a b", "c"], ["true", "false"]), ""),
    ("late.jsonl", LINES.replace(b'{"text": "c"', b'{"id": 3, " text": "c"'), Layout(),
     BOTH, ""),
    ("raw.tsv", 'text\tlabel\n"open\tx\nc\ty\n"all of it"\tx\nsay "d"\ty\nend"\tx\n',
     Layout(), (['"open', "c", '"all of it"', 'say "d"', 'end"'],
                ["x", "y", "x", "y", "x"]), "5 rows read, column"),
    ("some.tsv", 'text\tlabel\n"Yes, sir."\tx\nno, sir\ty\n', Layout(),
     (['"Yes, sir."', "no, sir"], ["x", "y"]), "2 rows read, column"),
    ("all.tsv", '"text"\t"label"\n"a b"\t"x"\n"c"\t"y"\n', Layout(), BOTH,
     "quotes taken"),
    ("texts.tsv", 'text\tlabel\n"a b"\tx\n"c"\ty\n', Layout(), BOTH, "quotes taken"),
    ("huge.csv", f"text,label\n{HUGE},x\nc,y\n", Layout(),
     ([HUGE, "c"], ["x", "y"]), ""),
    ("huge.tsv", f'text\tlabel\n"{HUGE}\tx\nc\ty\n', Layout(),
     (['"' + HUGE, "c"], ["x", "y"]), ""),
    ("endless.jsonl",
     '{"text": "a b", "label": Infinity}\n{"text": "c", "label": -Infinity}', Layout(),
     (["a b", "c"], ["Infinity", "-Infinity"]), ""),
    ("breaks.csv", "text,label\na\u2028b,x\nc\x85\x0b,y\n", Layout(),
     (["a\u2028b", "c\x85\x0b"], ["x", "y"]), "2 rows read"),
    ("decimal.csv", "text;label;score\na b;x;1,5\nc;y;2,5\n", Layout(), BOTH,
     "divided by semicolon"),
    ("long.tsv", 'text\tlabel\n"a\nb"\tx\nc\ty\n', Layout(),
     (["a\nb", "c"], ["x", "y"]), "quotes taken"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "layout", "expected", "said"),
    READ,
    ids=[row[0] for row in READ],
)
def test_a_table_is_read_as_it_was_written(
    tmp_path: Path,
    name: str,
    content: bytes | str,
    layout: Layout,
    expected: tuple[list[str], list[str]],
    said: str,
) -> None:
    columns = LABELLED if layout.header else Columns(("1",), label="2")
    data = read_data(write(tmp_path, name, content), columns=columns, layout=layout)
    assert (texts_of(data), labels_of(data)) == expected
    assert said in data.table.account(data.texts(), data.labels.column, None)


REFUSED: list[tuple[str, bytes | str, Layout, str]] = [
    ("wide.csv", "text,label\na, secret,x\nb, secret,x\n", Layout(),
     "line 2 (and 1 more) has 3 cells, the header 2"),
    ("trailing.csv", "text,label\nsecret,x,\n", Layout(), "line 2 has 3 cells"),
    ("narrow.csv", "text,label\na,x\n\nsecret\n", Layout(), "line 4 has 1 cell,"),
    ("wide.tsv", "text\tlabel\na\tx\nsecret\tb\tx\n", Layout(), "line 3 has 3 cells"),
    ("open.csv", 'text,label\na,x\n"secret,x\nb,x\n', Layout(), "begins in line 3"),
    ("shut.csv", 'text,label\n"secret" a,x\nb,x\n', Layout(), "begins in line 2"),
    ("slash.csv", 'text,label\n"a \\"secret\\"",x\nb,x\n', Layout(), "in line 2"),
    ("space.csv", 'text, label\na, "secret"\nb, "secret"\n', Layout(), "in line 2"),
    ("two.tsv", 'text\tlabel\na\tx\n"secret\tx\nb"\tx\n', Layout(), "in line 3 ends"),
    ("either.csv", "a, secret;x\nb, c;y\n", Layout(header=False),
     "comma and semicolon"),
    ("empty.csv", "", Layout(), "empty.csv is empty"),
    ("blank.csv", "\n\n", Layout(), "blank.csv is empty"),
    ("header.csv", "text,label\n", Layout(), "header.csv is empty: it has no row"),
    ("empty.jsonl", "", Layout(), "empty.jsonl is empty"),
    ("empty.parquet", "", Layout(), "cannot be read"),
    ("white.csv", "text,label\na,x\n \u00a0,x\n\"\",x\n", Layout(),
     "column 'text' has no text in 2 rows: lines 3, 4"),
    ("none.csv", "text,label\na,x\nb,\nc, \n", Layout(),
     "column 'label' has no label in 2 rows: lines 3, 4"),
    ("nul.csv", "text,label\na,x\nb\0secret,x\n", Layout(), "line 3 holds a NUL"),
    ("latin.csv", "text,label\na,x\nsecret \xe4,x\n".encode("latin-1"), Layout(),
     "latin.csv is not in utf-8: line 3 cannot be decoded, at the byte 0xe4"),
    ("asked.csv", "text,label\na,x\nä,x\n", Layout(encoding="ascii"),
     "asked.csv is not in ascii: line 3 cannot be decoded, at the byte 0xc3"),
    ("late.jsonl", LINES * 5000 + b"\xff\n", Layout(), "line 10,001 cannot be decoded"),
    ("cut.csv", PLAIN.decode().encode("utf-16")[:-1], Layout(),
     "not in utf-16: line 3"),
    ("end.csv", b"text,label\na,x\nb,\xc3", Layout(), "line 3 cannot be decoded"),
    ("name.csv", PLAIN, Layout(encoding="utf-99"), "'utf-99' is no encoding"),
    ("hex.csv", PLAIN, Layout(encoding="hex"), "'hex' is no encoding"),
    ("mark.csv", PLAIN, Layout("ab"), "'ab' is no delimiter"),
    ("quote.csv", PLAIN, Layout('"'), "is no delimiter"),
    ("mark.jsonl", LINES, Layout(","), "names its columns itself"),
    ("header.jsonl", LINES, Layout(header=False), "names its columns itself"),
    ("cut.csv.gz", gzip.compress(PLAIN)[:-9], Layout(), "cannot be unpacked as gzip"),
    ("bad.csv.bz2", bz2.compress(PLAIN)[:-9], Layout(), "cannot be unpacked as bzip2"),
    ("bad.csv.xz", lzma.compress(PLAIN)[:-9], Layout(), "cannot be unpacked as xz"),
    ("bad.csv.zst", zstd(PLAIN)[:-3], Layout(), "cannot be unpacked as zstd"),
    ("table.xlsx", b"PK", Layout(), "is no table; known endings are .csv"),
    ("twice.csv", "text,label,text\na,x,b\n", Layout(), "2 columns are called 'text'"),
    ("no.csv", "text,kind\na,x\nb,y\n", Layout(), "no column 'label' (--label-column)"),
    ("close.csv", "text,Label\na,x\nb,y\n", Layout(), "did you mean 'Label'?"),
    ("one.csv", "text,label\na,x\n", Layout(), "1 example(s); at least 2"),
    ("open.jsonl", '{"text": "secret', Layout(), "line 1 is no JSON: Unterminated"),
    ("array.jsonl", LINES + b'["secret"]\n', Layout(), "line 3 holds lists, not one"),
    ("pretty.json", '{\n "text": "secret"\n}', Layout(), "line 1 is no JSON"),
    ("twice.jsonl", b'{"text": "a", "text": "b"}\n', Layout(), "1 has a key twice"),
    ("deep.jsonl", '{"text": "a", "m": ' + "[" * 10**5, Layout(), "nested too deeply"),
    ("half.jsonl", LINES + b'{"text": "secret\\ud800", "label": "x"}', Layout(),
     "line 3 has half of a character"),
    ("number.jsonl", LINES + b'{"text": 5, "label": "x"}', Layout(),
     "column 'text' holds numbers (line 3), not texts"),
    ("lists.jsonl", '{"text": ["secret"], "label": "x"}\n' * 2, Layout(),
     "column 'text' holds lists (line 1), not texts"),
    ("null.jsonl", LINES + b'{"label": "x"}\n{"text": null, "label": "y"}', Layout(),
     "column 'text' has no text in 2 rows: lines 3, 4"),
    ("list.jsonl", '{"text": "a", "label": ["secret"]}\n' * 2, Layout(),
     "column 'label' holds lists (line 1)"),
    ("dict.jsonl", '{"text": "a", "label": {"x": "secret"}}\n' * 2, Layout(),
     "column 'label' holds objects (line 1)"),
    ("mixed.jsonl", LINES + b'{"text": "d", "label": 1}', Layout(),
     "column 'label' holds strings (line 1), numbers (line 3)"),
    ("nan.jsonl", '{"text": "a", "label": NaN}\n{"text": "b", "label": 1}', Layout(),
     "column 'label' has no label in 1 row: line 1"),
    ("gone.jsonl", LINES + b'{"text": "c"}\n{"text": "d", "label": null}', Layout(),
     "column 'label' has no label in 2 rows: lines 3, 4"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "layout", "message"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_a_table_that_is_not_clear_is_refused_in_one_line_without_a_cell(
    tmp_path: Path, name: str, content: bytes | str, layout: Layout, message: str
) -> None:
    columns = LABELLED if layout.header else Columns(("1",), label="2")
    with pytest.raises(SourceError) as caught:
        read_data(write(tmp_path, name, content), columns=columns, layout=layout)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert SECRET not in said


@pytest.mark.parametrize("label", [None, "label"])
@pytest.mark.parametrize(
    "content",
    [
        "secret text 0\nsecret text 1\n",
        "secret 0,secret 1\nsecret 2,secret 3\n",
        "secret 0\tquestion\nsecret 1\tother\nsecret 2\tquestion\n",
        "review;secret 1\nsecret 2;secret 3\nreview;secret 4\n",
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_a_file_without_header_shows_none_of_its_cells(
    tmp_path: Path, content: str, label: str | None, ending: str
) -> None:
    path = write(tmp_path, f"t.{ending}", content)
    for text in ((), ("secrets",)):
        with pytest.raises(SourceError, match="--no-header") as caught:
            read_data(path, columns=Columns(text, label=label))
        assert "secret " not in str(caught.value)


def test_unknown_classes_are_counted_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "text,label\na,x\nb,secret\nc,secret 2\n")
    message = (
        r"2 class\(es\) that are not known, in 2 rows \(lines 3, 4\); known are x$"
    )
    columns = Columns(label="label", classes=["x"])
    with pytest.raises(SourceError, match=message.replace("$", " ")) as caught:
        read_data(path, columns=columns)
    assert SECRET not in str(caught.value)


ODD = st.text(
    st.characters(exclude_categories=["Cs", "Cc"])
    | st.sampled_from(['"', ",", ";", "\t"])
).filter(str.strip)
LABEL = ODD.map(lambda text: unicodedata.normalize("NFC", text.strip())).filter(is_name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ODD, LABEL), min_size=2, max_size=6))
def test_the_same_texts_and_classes_come_from_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    records = [{"text": text, "label": label} for text, label in rows]
    pq.write_table(pa.Table.from_pylist(records), folder / "t.parquet")
    write(folder, "t.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    for name, mark in (("t.csv", ","), ("u.csv", ";"), ("t.tsv", "\t")):
        content = io.StringIO()
        writer = csv.writer(content, delimiter=mark, lineterminator="\n")
        writer.writerows([("text", "label"), *rows])
        write(folder, name, content.getvalue())
    for path in sorted(folder.iterdir()):
        data = read_data(str(path), columns=LABELLED)
        assert list(zip(texts_of(data), labels_of(data), strict=True)) == rows, path


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array([10, 9]), ["10", "9"]),
        (pa.array([1.0, 2.5]), ["1.0", "2.5"]),
        (pa.array([0.1, 7], pa.float32()), ["0.1", "7.0"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([date(2024, 1, 2), date(2024, 1, 3)]), ["2024-01-02", "2024-01-03"]),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["1.50", "2.00"]),
        (pa.array(["x ", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
    ],
)
def test_typed_labels_are_named_as_a_csv_would_write_them(
    tmp_path: Path, values: pa.Array, classes: list[str]
) -> None:
    table = pa.table(
        {"text": pa.array(["a", "b"]).dictionary_encode(), "label": values}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    data = read_data(str(tmp_path / "t.parquet"), columns=LABELLED)
    assert (texts_of(data), labels_of(data)) == (["a", "b"], classes)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", pa.array([1, 2]), "column 'text' holds int64 (row 1), not texts"),
        ("text", pa.array([b"a", b"b"]), "column 'text' holds binary (row 1)"),
        ("text", pa.array([["a"], ["b"]]), "'text' holds list<"),
        ("text", pa.array([datetime(2024, 1, 2)] * 2), "'text' holds timestamp[us]"),
        (
            "text",
            pa.array([None, None]),
            "column 'text' has no text in 2 rows: rows 1, 2",
        ),
        ("label", pa.array([["a"], ["b"]]), "'label' holds list<"),
        ("label", pa.array([b"a", b"b"]), "'label' holds binary"),
        ("label", pa.array([datetime(2024, 1, 2)] * 2), "'label' holds timestamp[us]"),
        ("label", pa.array([1.0, float("nan")]), "no label in 1 row: row 2"),
        ("label", pa.array([1, None]), "no label in 1 row: row 2"),
        ("text", pa.array([b"\xff", b"b"]).view(pa.string()), "are not UTF-8"),
    ],
)
def test_typed_columns_that_are_no_texts_or_classes_are_named(
    tmp_path: Path, column: str, values: pa.Array, message: str
) -> None:
    columns = {"text": pa.array(["a", "b"]), "label": pa.array(["x", "y"])}
    pq.write_table(pa.table(columns | {column: values}), tmp_path / "t.parquet")
    with pytest.raises(SourceError) as caught:
        read_data(str(tmp_path / "t.parquet"), columns=LABELLED)
    assert message in str(caught.value)


def test_an_unused_column_may_hold_anything(tmp_path: Path) -> None:
    rows = [f"{i if i < 11_000 else 'x'},text {i},{i % 3:02}\n" for i in range(12_000)]
    data = read_data(
        write(tmp_path, "t.csv", "id,text,label\n" + "".join(rows)), columns=LABELLED
    )
    assert len(data.table) == 12_000
    assert sorted(data.table.columns) == ["label", "text"]
    assert data.labels.classes == ["00", "01", "02"]


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    for path in (tmp_path / "t.csv", tmp_path / f"{'x' * 300}.csv"):
        with pytest.raises(SourceError, match=r"no file that|cannot be read"):
            read_data(str(path))


def test_what_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "HARMLESS", 2**14)
    monkeypatch.setattr(unpack, "MOST_TIMES", 50)
    path = write(
        tmp_path, "t.csv.gz", gzip.compress(b"text\n" + (b"a" * 999 + b"\n") * 400)
    )
    with pytest.raises(SourceError, match="more than 50 times its size"):
        read_data(path)


def test_a_line_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_CHARACTERS", 1000)
    path = write(tmp_path, "t.csv.gz", gzip.compress(b"text\na\n" + b"a" * 5000))
    with pytest.raises(SourceError, match="line 3 is longer than 1,000 characters"):
        read_data(path)
