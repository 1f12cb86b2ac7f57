"""Files that are no table of text: what they are, and what to do with them."""

from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources.tables.unpack import PACKED, open_bytes

_AS_CSV = "save it as csv (UTF-8)"
_UNPACK = "unpack it, and give the table in it"
_AS_PARQUET = "write it as parquet"
_ADVICE = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): f"open the workbook and {_AS_CSV}",
    (".zip", ".tar", ".tgz", ".7z", ".rar", ".z"): _UNPACK,
    (".arrow", ".feather", ".orc", ".avro", ".ipc"): _AS_PARQUET,
    (".pkl", ".pickle", ".npy", ".npz", ".pt", ".h5"): f"{_AS_PARQUET}, or as csv",
    (".sqlite", ".sqlite3", ".db", ".duckdb"): f"export the table, and {_AS_CSV}",
    (".sav", ".dta", ".rds", ".rdata", ".sas7bdat"): f"export it, and {_AS_CSV}",
    (".txt", ".dat", ".text", ".tab", ".psv", ".data", ""): (
        "if it is a table of rows and columns, call it .csv or .tsv (--delimiter, "
        "--no-header)"
    ),
}
_CONTENTS = (
    (
        0,
        b"PK\x03\x04",
        "a zip archive or an Excel workbook",
        f"{_AS_CSV}, or unpack it",
    ),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", _AS_CSV),
    (0, b"PAR1", "parquet", "call it .parquet"),
    (0, b"ARROW1", "Arrow", _AS_PARQUET),
    (0, b"FEA1", "Feather", _AS_PARQUET),
    (0, b"ORC", "ORC", _AS_PARQUET),
    (0, b"Obj\x01", "Avro", _AS_PARQUET),
    (0, b"SQLite format 3\0", "an SQLite database", f"export the table, and {_AS_CSV}"),
    (0, b"%PDF-", "PDF", _AS_CSV),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (0, b"\x1f\x8b", "gzip within its compression", "unpack it once"),
    (0, b"\x89PNG\r\n", "an image", "give the folder of images"),
    (0, b"\xff\xd8\xff", "an image", "give the folder of images"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch it (git lfs pull)"),
    (257, b"ustar", "a tar archive", _UNPACK),
)
_WEB_PAGES = (b"<!doctype html", b"<html")


def advice(kind: str) -> str:
    """Say what to do with a file that has an ending which is not read."""
    found = [what for endings, what in _ADVICE.items() if kind in endings]
    return f"; {found[0]}" if found else ""


def check_text(path: Path) -> None:
    """Refuse what is no text, whatever its name says.

    Args:
        path: A file, compressed or not.

    Raises:
        SourceError: If it begins as another kind of file does.
    """
    with open_bytes(path) as file:
        start = file.read(512)
    found = [
        (what, action)
        for place, mark, what, action in _CONTENTS
        if start[place:].startswith(mark)
    ]
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_WEB_PAGES):
        found = [("a web page", "download the file itself")]
    if found:
        what, action = found[0]
        raise SourceError(f"{path.name} holds {what}, not a table of text; {action}")


def known(endings: tuple[str, ...]) -> str:
    """List the endings that are read."""
    return (
        f"known endings are {', '.join(endings)}, and for compressed ones "
        f"{', '.join(PACKED)} behind them"
    )
