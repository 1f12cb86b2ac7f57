"""Data that cannot be used are refused in one line."""

from pathlib import Path

import pytest

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources import load_examples, load_network
from tests import models
from tests.sources.written import ROWS, TEXTS, write_images, write_table


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            ROWS,
            {"text_columns": ["body"]},
            "no column 'body' .--text-column.; columns are text, kind",
        ),
        (
            ROWS,
            {"label_column": "class"},
            "no column 'class' .--label-column.; columns are text, kind",
        ),
        (
            {"n": [1, 2]},
            {"text_columns": ["n"]},
            "column 'n' holds numbers .line 1., not texts",
        ),
        ({"n": [1, 2]}, {}, "which column holds the texts.*columns are n"),
        ({"a": TEXTS, "b": TEXTS}, {}, "which column .* are a, b"),
        (ROWS, {"text_columns": ["text"] * 3}, "not 3 columns"),
        (ROWS, {"split": "test"}, r"a\.jsonl is one file: it has no split 'test'"),
        (
            {"text": ["a", " ", None]},
            {},
            "column 'text' has no text in 2 rows: lines 2, 3; remove",
        ),
        (
            {"text": ["a", "the"], "kind": ["x", None]},
            {"text_columns": ["text"], "label_column": "kind"},
            "column 'kind' has no label in 1 row: line 2; remove",
        ),
        ({"text": ["a"]}, {}, r"a\.jsonl has 1 example\(s\); at least 2 are needed"),
        ({"text": []}, {}, r"a\.jsonl is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path,
    bert: Network,
    columns: dict[str, list[object]],
    options: dict[str, object],
    message: str,
) -> None:
    data = write_table(tmp_path / "a.jsonl", columns)
    with pytest.raises(SourceError, match=message) as caught:
        load_examples(data, bert, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"text,label\n", r"a\.csv is empty"),
        (
            "a.csv",
            b"text\n\xff\xfe\n",
            r"a\.csv is not in utf-8: line 2 .* 0xff; name .*--encoding",
        ),
        ("a.csv", b'text,b\na,b\na,b,c,d\n"', r"a\.csv: a quote .* in line 4"),
        ("a.jsonl", b'{"text": "a"\n', r"a\.jsonl: line 1 is no JSON: .* character 13"),
        ("a.parquet", b"nothing", r"a\.parquet cannot be read: Parquet"),
        ("a.txt", b"text", r"a\.txt is no table; known endings are \.csv"),
    ],
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, bert: Network, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        load_examples(str(tmp_path / name), bert)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no/such/file.csv", "no file or folder 'no/such/file.csv'"),
        ("missing.jsonl", "no file or folder 'missing.jsonl'"),
        ("no-such-org-xyz/no-such-set", "is not here|is neither here nor a dataset"),
    ],
)
def test_data_that_are_nowhere_are_said(bert: Network, data: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_examples(data, bert)


def test_a_model_without_its_processor_is_said(tmp_path: Path) -> None:
    models.tiny_bert().save_pretrained(tmp_path / "bare")
    network = load_network(str(tmp_path / "bare"))
    data = write_table(tmp_path / "a.csv", ROWS)
    with pytest.raises(SourceError, match="bare has no tokenizer"):
        load_examples(data, network)
    models.tiny_vit().save_pretrained(tmp_path / "blind")
    network = load_network(str(tmp_path / "blind"))
    with pytest.raises(SourceError, match="blind has no image processor"):
        load_examples(write_images(tmp_path / "pets"), network)
