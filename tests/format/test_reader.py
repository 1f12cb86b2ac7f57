"""Reading: lazily, with distrust, and with an error that says what is wrong."""

import json
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import load_artifact, read_manifest
from kfac_artifacts.format.files import read_json
from kfac_artifacts.format.json_text import MAX_JSON_BYTES, MAX_VALUES, parse_json
from tests.artifacts import small


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    save_artifact(small(), tmp_path / "a", storage="float32")
    return tmp_path / "a"


def blow_up(artifact: Path, dim: int) -> int:
    """Make the last factor of an artifact ``dim x dim``, as a file full of holes."""
    tensors, manifest = artifact / "factors.safetensors", artifact / "kfac.json"
    content = tensors.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    start = header["norm/G/matrix"]["data_offsets"][0]
    end = start + 4 * dim * dim
    header["norm/G/matrix"] |= {"shape": [dim, dim], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with tensors.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + content[8 + length :])
        file.truncate(8 + len(text) + end)
    value = json.loads(manifest.read_text())
    value["base_model"]["parameters"]["norm"]["shape"] = [dim]
    value["factors"]["norm/G"]["dim"] = dim
    value["files"][tensors.name]["size"] = tensors.stat().st_size
    manifest.write_text(json.dumps(value))
    return end


def test_opening_reads_no_tensor_and_asking_reads_one(artifact: Path) -> None:
    """In a process of its own, whose greatest use of memory says what was read."""
    assert blow_up(artifact, 20_000) > 1.5e9
    code = (
        "import resource, sys; from kfac_artifacts.format import load_artifact\n"
        "opened = load_artifact(sys.argv[1], verify=False)\n"
        "A = opened.factors['l/A'].to_dense()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, A.tolist())"
    )
    words = [sys.executable, "-c", code, str(artifact)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    most, A = done.stdout.split(maxsplit=1)
    assert int(most) * (1 if sys.platform == "darwin" else 1024) < 1.5e9
    assert json.loads(A) == small().factors["l/A"].to_dense().tolist()
    opened = load_artifact(artifact, verify=False)
    assert opened.blocks["norm"].sizes(opened.parameters) == [("norm/G", 20_000)]


def test_a_factor_is_decoded_once_while_it_is_asked_for_again(artifact: Path) -> None:
    factors = load_artifact(artifact, verify=False).factors
    first = factors["l/A"]
    assert factors["l/A"] is first
    assert factors["l/B"] is not first
    with pytest.raises(KeyError):
        factors["l/C"]


def test_a_flipped_bit_is_found(artifact: Path) -> None:
    path = artifact / "factors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_artifact(artifact, verify=False)
    with pytest.raises(FormatError, match=r"factors\.safetensors was damaged"):
        load_artifact(artifact)


def test_files_that_are_links_are_read(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for file in artifact.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert load_artifact(tmp_path / "snapshot").digest == load_artifact(artifact).digest


@pytest.mark.parametrize("place", ["nowhere", "a/kfac.json", "."])
def test_what_is_no_artifact_is_said_to_be_none(
    place: str, artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match="no artifact"):
        load_artifact(tmp_path / place, verify=False)


def test_a_directory_in_the_place_of_a_file_is_refused(artifact: Path) -> None:
    (artifact / "factors.safetensors").unlink()
    (artifact / "factors.safetensors").mkdir()
    with pytest.raises(FormatError, match="incomplete"):
        read_manifest(artifact)


def test_a_newer_version_is_named_before_anything_else(artifact: Path) -> None:
    (artifact / "kfac.json").write_text('{"format": "kfac-artifact", "version": 7}')
    with pytest.raises(FormatError, match="version 7 of kfac-artifact is not known"):
        load_artifact(artifact, verify=False)


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kfac.json"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(FormatError, match="more than"):
        read_json(path)


def test_a_huge_header_is_refused_before_it_is_read(artifact: Path) -> None:
    path = artifact / "factors.safetensors"
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**31)
    value = json.loads((artifact / "kfac.json").read_text())
    value["files"][path.name]["size"] = 2**31
    (artifact / "kfac.json").write_text(json.dumps(value))
    with pytest.raises(FormatError, match="impossible header"):
        load_artifact(artifact, verify=False)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"0,", b"[0],"])
def test_a_file_full_of_values_is_refused_before_they_are_made(unit: bytes) -> None:
    """64 MiB of ``[]`` took 1.6 GB and minutes."""
    text = b"[" + unit * (MAX_JSON_BYTES // len(unit) - 2) + b"0]"
    tracemalloc.start()
    with pytest.raises(FormatError, match="more than 3,000,000 values"):
        parse_json(text, "it")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    few = b"[" + unit * (MAX_VALUES // 100) + b"0]"
    assert len(parse_json(few, "it")) == MAX_VALUES // 100 + 1


@pytest.mark.parametrize("depth", [10, 32, 33, 900, 100_000])
def test_nesting_is_refused_beyond_32(depth: int) -> None:
    text = b"[" * depth + b"1" + b"]" * depth
    if depth <= 32:
        parse_json(text, "it")
    else:
        with pytest.raises(FormatError, match="it is not valid JSON"):
            parse_json(text, "it")


def test_the_error_names_block_and_field(artifact: Path) -> None:
    value = json.loads((artifact / "kfac.json").read_text())
    value["blocks"]["l"]["terms"][0]["A"] = 3
    (artifact / "kfac.json").write_text(json.dumps(value))
    with pytest.raises(
        FormatError, match=r"blocks\['l'\]\.terms\[0\]\.A must be a str"
    ):
        load_artifact(artifact, verify=False)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_opening_takes_no_memory_for_factors(tmp_path: Path) -> None:
    save_artifact(small((2000, 1500, 1000)), tmp_path / "a", storage="float32")
    size = (tmp_path / "a" / "factors.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (private_memory() + size // 2, hard))
    try:
        opened = load_artifact(tmp_path / "a", verify=False)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert len(opened.factors)


def private_memory() -> int:
    """Bytes that the process has asked for, as ``RLIMIT_DATA`` counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("VmData"))
