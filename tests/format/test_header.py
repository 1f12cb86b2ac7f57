"""Headers are read without torch, say what numbers are, and refuse as readers do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import load_artifact, read_header
from tests.commands import kfac
from tests.each import for_each
from tests.format.mutations import mutant

VECTORS = Path(__file__).parents[2] / "spec/vectors"
VALID = sorted(VECTORS.glob("valid/*"))
INVALID = sorted(VECTORS.glob("invalid/*"))
HEAVY = {"torch", "numpy", "transformers", "jaxtyping", "datasets", "huggingface_hub"}
MUTANTS = range(1000, 1100)
INSPECT = """
import json, sys
from click.testing import CliRunner
from kfac_cli.main import main
for path in sys.argv[1:]:
    for options in [], ["--json"]:
        done = CliRunner().invoke(main, ["inspect", path, *options])
        assert done.exit_code == 0 and path in path, done.output
print(json.dumps(sorted(sys.modules)))
"""


def test_inspect_imports_nothing_slow() -> None:
    """Every valid vector, in one process: dense, compressed, merged, in shards."""
    command = [sys.executable, "-c", INSPECT, *map(str, VALID)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert "kfac_artifacts.format.header" in found
    assert not HEAVY & found


@for_each(VALID)
def test_a_header_says_what_the_numbers_are(path: Path) -> None:
    header, artifact = read_header(path), load_artifact(path)
    assert (header.provenance, header.digest) == (artifact.provenance, artifact.digest)
    assert header.parameters == artifact.parameters
    assert list(header.blocks) == list(artifact.blocks)
    for name, block in artifact.blocks.items():
        info = header.blocks[name]
        assert vars(info) == vars(block)
        assert (info.kind, info.parameters, info.factors) == (
            block.kind,
            block.parameters,
            block.factors,
        )
    assert list(header.factors) == list(artifact.factors)
    for name, told in header.factors.items():
        factor = artifact.factors[name]
        assert told.dim == factor.dim == len(factor.to_dense())
        assert told.structure.name == factor.name
        assert told.structure.configuration == factor.configuration
        assert told.nbytes == sum(stored_bytes(path, name))


def stored_bytes(path: Path, factor: str) -> list[int]:
    """Bytes of the tensors of a factor, as the safetensors library knows them."""
    sizes = []
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            keys = [key for key in opened.keys() if key.rpartition("/")[0] == factor]  # noqa: SIM118
            sizes += [opened.get_tensor(key).nbytes for key in keys]
    return sizes


def outcome(read: Callable[[Path], object], path: Path) -> str | None:
    """What reading is refused with; nothing but a `FormatError` may be."""
    try:
        read(path)
    except FormatError as error:
        return str(error)
    return None


def inspected(path: Path) -> None:
    """A header that is refused is one line and exit code 3; the others are shown."""
    refused, whole = (
        outcome(read_header, path),
        outcome(partial(load_artifact, verify=False), path),
    )
    assert refused == whole
    for options in ([], ["--json"]):
        done = kfac("inspect", path, *options)
        if refused is None:
            assert done.exit_code == 0, done.output
        else:
            assert done.exit_code == 3
            assert isinstance(done.exception, SystemExit)
            assert len(done.stderr.splitlines()) == 1
            assert done.stdout == ""


@for_each([path for path in INVALID if not path.name.startswith("foreign-")])
def test_inspect_refuses_in_one_line_whatever_a_reader_refuses(path: Path) -> None:
    inspected(path)


def test_inspect_never_fails_otherwise_than_a_reader_of_mutants(tmp_path: Path) -> None:
    outcomes = []
    for seed in MUTANTS:
        place = tmp_path / f"{seed}"
        place.mkdir()
        told = mutant(seed, place / "a")
        try:
            inspected(place / "a")
        except Exception as error:
            raise AssertionError(told) from error
        outcomes.append(outcome(read_header, place / "a") is None)
    assert 15 < sum(outcomes) < len(outcomes) - 15


def test_files_that_are_not_as_announced_are_named(tmp_path: Path) -> None:
    """The header is one thing; what stands in the directory is another."""
    for name, change, said in (
        ("factors-00001-of-00002.safetensors", Path.unlink, "is incomplete"),
        ("factors-00002-of-00002.safetensors", cut, "but the manifest says"),
        ("factors.safetensors.index.json", Path.unlink, "is incomplete"),
    ):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        shutil.copytree(VECTORS / "valid/compressed-sharded", tmp_path / "a")
        change(tmp_path / "a" / name)
        with pytest.raises(FormatError, match=said) as refused:
            read_header(tmp_path / "a")
        assert name in str(refused.value)
        inspected(tmp_path / "a")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
