"""Writing: what is written is read again, whole or not at all, the same each time."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from reader import read
from typing_extensions import override

from kfac_artifacts.artifact import Factors, HeldFactors, NamedConfig
from kfac_artifacts.choices import STORAGES
from kfac_artifacts.errors import FormatError, PlaceError, SettingsError
from kfac_artifacts.factors import Dense, Diagonal, Factor
from kfac_artifacts.format import check_hashes, load_artifact, write_artifact
from kfac_artifacts.format.coding import is_kept, rounded
from tests.artifacts import contents, same, small, with_factors, written_out
from tests.format.drawn import PLANS, build
from tests.places.surroundings import file_size_limit

ROOT = Path(__file__).parents[2]
VALID = ROOT / "spec" / "vectors" / "valid"


@settings(max_examples=40, deadline=None)
@given(PLANS, st.floats(0, 1), st.sampled_from([*STORAGES]), st.integers(1, 400))
def test_an_artifact_survives_being_written(
    plans: Any, error: Any, storage: str, limit: Any
) -> None:
    artifact = build(plans, error)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "artifact"
        write_artifact(
            artifact,
            path,
            storage=storage,
            max_shard_bytes=limit,
            allow_indefinite=True,  # what is drawn is of any sign
        )
        found = load_artifact(path)
        codec = STORAGES[storage]  # int8 alone rounds these numbers
        read_back = {n: rounded(f, codec) for n, f in artifact.factors.items()}
        assert same(found, replace(artifact, factors=HeldFactors(read_back)))
        again = read(path)  # the reader that shares no code with the writer
        for name, factor in read_back.items():
            assert torch.equal(
                torch.from_numpy(written_out(again[name])), factor.to_dense()
            )


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_said_to_be_kept_is_read_to_the_last_bit(storage: str) -> None:
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    whole = (matrix + matrix.mT).triu()
    whole = whole + whole.triu(1).mT
    off = whole.clone()
    off[3, 1] *= 1 + 2**-20
    codec, exact = STORAGES[storage], "float32" in storage
    for factor in (Dense(whole), Diagonal(matrix[0].square())):
        kept = is_kept(factor, codec)
        assert kept == exact
        read_back = rounded(factor, codec).fields()
        same_bits = (torch.equal(v, read_back[n]) for n, v in factor.fields().items())
        assert not kept or all(same_bits)
    assert not is_kept(Dense(off), codec)
    assert not is_kept(Dense(whole.double()), codec)


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("dense-float16", "float16"),
        ("dense-symmetric-bfloat16", "symmetric-bfloat16"),
        ("diagonal-float32", "float32"),
        ("merged-1-2", "float32"),
        ("unicode-names", "float32"),
    ],
)
def test_a_vector_written_again_has_the_same_bytes(
    name: str, storage: str, tmp_path: Path
) -> None:
    write_artifact(load_artifact(VALID / name), tmp_path / "again", storage=storage)
    kept = contents(VALID / name)
    del kept["expected.json"]
    assert contents(tmp_path / "again") == kept


def test_the_writer_writes_no_metadata(tmp_path: Path) -> None:
    write_artifact(small(), tmp_path / "a")
    assert b"__metadata__" not in (tmp_path / "a/factors.safetensors").read_bytes()


PROGRAM = """
import sys
from pathlib import Path
from kfac_artifacts.format import load_artifact, write_artifact
write_artifact(load_artifact(sys.argv[1]), Path(sys.argv[2]), max_shard_bytes=50)
"""


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    write_artifact(
        load_artifact(VALID / "gramians"), tmp_path / "here", max_shard_bytes=50
    )
    command = [sys.executable, "-c", PROGRAM, VALID / "gramians", tmp_path / "there"]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert len(contents(tmp_path / "here")) > 3


def test_shards_are_no_larger_than_asked_unless_a_factor_is(tmp_path: Path) -> None:
    write_artifact(small((9, 2, 4)), tmp_path / "a", max_shard_bytes=60)
    files = {name for name in contents(tmp_path / "a") if name.startswith("factors-")}
    assert files == {f"factors-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert load_artifact(tmp_path / "a").factors["norm/G"].dim == 4


class Faulty(Factors):
    """Factors of which the last cannot be had."""

    def __init__(self, factors: Factors, error: BaseException) -> None:
        self.factors, self.error, self.asked = factors, error, 0

    def __getitem__(self, name: str) -> Factor:
        self.asked += 1
        if self.asked == len(self.factors):
            raise self.error
        return self.factors[name]

    @override
    def structure(self, name: str) -> NamedConfig:
        return self.factors.structure(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no memory")])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_write_leaves_what_was_there(
    error: Any, existing: bool, tmp_path: Path
) -> None:
    if existing:
        write_artifact(small(), tmp_path / "a")
    before = contents(tmp_path / "a") if existing else None
    artifact = replace(small(), factors=Faulty(small().factors, error))
    with pytest.raises(type(error)):
        write_artifact(artifact, tmp_path / "a", replace=existing)
    assert [p.name for p in tmp_path.iterdir()] == (["a"] if existing else [])
    assert not existing or contents(tmp_path / "a") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from kfac_artifacts.format import load_artifact, write_artifact
artifact = load_artifact(sys.argv[1])
kill = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_artifact(artifact, Path(sys.argv[2]), progress=kill)
"""


def test_a_killed_write_leaves_no_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, VALID / "gramians", tmp_path / "a"]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    write_artifact(small(), tmp_path / "a")  # what was left is not in the way
    load_artifact(tmp_path / "a")


@pytest.mark.parametrize("limit", [0, 500, 9000])
def test_a_full_disk_leaves_nothing_half_written(limit: int, tmp_path: Path) -> None:
    artifact = small((60, 60, 60))
    with file_size_limit(limit), pytest.raises(OSError, match="File too large"):
        write_artifact(artifact, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory that may be read only; root becomes somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        yield Path(name)
        if root:
            os.seteuid(0)
        Path(name).chmod(0o755)


def test_a_directory_that_cannot_be_written_is_left_alone(unwritable: Path) -> None:
    for place in (unwritable / "a", unwritable / "new" / "a"):
        with pytest.raises(PlaceError, match="permission denied"):
            write_artifact(small(), place)
    assert list(unwritable.iterdir()) == []


def test_a_directory_that_exists_is_refused_unless_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_artifact(small(), tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(PlaceError, match="exists already"):
        write_artifact(small((2, 2, 2)), tmp_path / "a")
    assert contents(tmp_path / "a") == before


def test_a_place_that_is_a_file_or_a_link_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for place in ("file", "link"):
        with pytest.raises(PlaceError, match="no directory"):
            write_artifact(small(), tmp_path / place, replace=True)
    assert (tmp_path / "link").read_text() == "mine"


def test_replacing_takes_the_old_files_away(tmp_path: Path) -> None:
    write_artifact(small(), tmp_path / "a", max_shard_bytes=50)
    write_artifact(small((2, 2, 2)), tmp_path / "a", replace=True)
    assert sorted(contents(tmp_path / "a")) == ["factors.safetensors", "kfac.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert load_artifact(tmp_path / "a").factors["l/A"].dim == 3


def test_an_artifact_can_replace_itself(tmp_path: Path) -> None:
    write_artifact(small(), tmp_path / "a", storage="float32")
    write_artifact(
        load_artifact(tmp_path / "a"), tmp_path / "a", storage="float16", replace=True
    )
    check_hashes(tmp_path / "a")
    assert same(load_artifact(tmp_path / "a"), small())


def test_an_artifact_that_is_replaced_is_not_mixed_with_the_new_one(
    tmp_path: Path,
) -> None:
    write_artifact(small(), tmp_path / "a")
    early, late = load_artifact(tmp_path / "a"), load_artifact(tmp_path / "a")
    first = early.factors["l/A"].to_dense()
    other = replace(
        small(),
        factors=HeldFactors(
            {n: Dense(2 * f.to_dense()) for n, f in small().factors.items()}
        ),
    )
    write_artifact(other, tmp_path / "a", replace=True)
    assert torch.equal(
        early.factors["norm/G"].to_dense(), small().factors["norm/G"].to_dense()
    )
    assert torch.equal(first, small().factors["l/A"].to_dense())
    with pytest.raises(FormatError, match="was replaced since it was opened"):
        late.factors["l/A"]
    assert not torch.equal(
        load_artifact(tmp_path / "a").factors["l/A"].to_dense(), first
    )


def test_what_no_reader_could_read_is_not_written(tmp_path: Path) -> None:
    artifact = small()
    with pytest.raises(FormatError, match="number of sources"):
        write_artifact(
            replace(artifact, provenance=replace(artifact.provenance, tasks=2)),
            tmp_path / "a",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("matrix", "storage", "message"),
    [
        ([[1.0, 0.0], [0.0, float("nan")]], "float32", "not finite"),
        ([[1.0, 0.0], [0.0, float("inf")]], "symmetric-float32", "norm/G"),
        ([[70000.0, 0.0], [0.0, 1.0]], "float16", "cannot hold"),
        ([[1e-9, 0.0], [0.0, 1e-9]], "float16", "cannot hold"),
        ([[1.0, 0.5], [0.0, 1.0]], "symmetric-float32", "norm/G.*not symmetric"),
    ],
)
def test_values_that_would_be_lost_are_refused_by_name(
    matrix: Any, storage: str, message: str, tmp_path: Path
) -> None:
    artifact = with_factors(small((3, 2, 2)), {"norm/G": Dense(torch.tensor(matrix))})
    with pytest.raises(FormatError, match=message):
        write_artifact(artifact, tmp_path / "a", storage=storage)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_storage_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="symmetric-bfloat16"):
        write_artifact(small(), tmp_path / "a", storage="int4")
