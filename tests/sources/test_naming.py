"""Names of local data tell tasks apart, and no person."""

from pathlib import Path

import pytest

from kfac_artifacts.sources.naming import data_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tickets.csv", "tickets.csv"),
        ("/srv/acme/tickets.jsonl", "tickets.jsonl"),
        ("/srv/acme/train.csv", "acme/train.csv"),
        ("/srv/acme/data/train-00000-of-00001.parquet", None),
        ("/srv/acme/Test.TSV", "acme/Test.TSV"),
        ("/srv/acme/texts.csv.gz", "acme/texts.csv.gz"),
        ("/srv/acme/b/../dataset.csv", "acme/dataset.csv"),
        ("/srv/a/b/data/raw/train.csv", "data/raw/train.csv"),
        ("/home/ann/train.csv", "train.csv"),
        ("/home/ann/acme/train.csv", "acme/train.csv"),
        ("/Users/ann/Documents/data.csv", "Documents/data.csv"),
        ("/mnt/home/ann/data.csv", "data.csv"),
        ("/mnt/users/ann/data/train.csv", "data/train.csv"),
        ("/train.csv", "train.csv"),
        ("/home/ann", "data"),
        ("/", "data"),
    ],
)
def test_generic_names_take_their_folder_and_never_a_home(
    path: str, name: str | None
) -> None:
    found = data_name(Path(path))
    if name is None:
        name = "acme/data/train-00000-of-00001.parquet"
    assert found == name
    assert "ann" not in found


def test_the_own_home_is_never_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "ann"
    (home / "acme" / "photos").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "bob")
    assert data_name(Path("~")) == "data"
    assert data_name(Path("~/train.csv")) == "train.csv"
    assert data_name(home / "train.csv") == "train.csv"
    assert data_name(Path("/srv/bob/train.csv")) == "train.csv"
    assert data_name(Path("~/acme/train.csv")) == "acme/train.csv"
    monkeypatch.chdir(home / "acme")
    assert data_name(Path("train.csv")) == "acme/train.csv"
    assert data_name(Path("./photos/")) == "acme/photos/"
    monkeypatch.chdir(home)
    assert data_name(Path("train.csv")) == "train.csv"
