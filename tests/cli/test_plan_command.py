"""``kfac plan``: from a configuration to a table, at any size of model."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from kfac_cli.units import duration, operations
from tests.commands import good, kfac
from tests.models import SavedModel

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


@pytest.fixture
def bert(tmp_path: Path, saved_model: SavedModel) -> Path:
    """A directory with the config.json of a tiny BERT and nothing else."""
    (tmp_path / "bert").mkdir()
    config = (saved_model("bert") / "config.json").read_bytes()
    (tmp_path / "bert" / "config.json").write_bytes(config)
    return tmp_path / "bert"


def test_layers_that_are_alike_share_a_row(bert: Path) -> None:
    words = ("--tokens", 5, "--exclude", "*.1.output.dense.*", "--include-tables")
    said = good("plan", bert, *words).splitlines()
    rows = {line.split("  ")[0]: line.split() for line in said if " x " in line}
    query = rows["encoder.layer.{0-1}.attention.self.query"]
    assert query[1:] == ["kronecker", "2", "x", "A", "9", "B", "8", "5", "324", "B"]
    assert rows["encoder.layer.{0-1}.attention.self.key"][4:8] == ["A", "9*", "B", "8"]
    assert rows["encoder.layer.0.output.dense"][2] == "1"
    assert rows["embeddings.word_embeddings"][4:7] == ["A", "28", "diagonal"]
    assert "excluded on request: 2" in said
    assert any(line.startswith("not covered: pooler.dense.weight") for line in said)
    assert "proved only by `kfac compute`" in said[-1]


def test_json_says_all_and_adds_up(bert: Path) -> None:
    found = json.loads(
        good("plan", bert, "--json", "--gflops", 2, "--passes", 3, "--examples", 7)
    )
    assert found["storages"] == {
        storage: sum(block["bytes"][storage] for block in found["blocks"])
        for storage in found["storages"]
    }
    shapes = [s for block in found["blocks"] for s in block["parameters"].values()]
    assert found["covered"] == sum(map(math.prod, shapes))
    flops = found["flops_per_example"]
    assert found["flops"] == 7 * flops["total"]
    assert found["seconds"] == pytest.approx(found["flops"] / 2e9)
    once = json.loads(good("plan", bert, "--json"))
    assert flops["backward"] == 3 * once["flops_per_example"]["backward"]
    assert flops["forward"] == once["flops_per_example"]["forward"]
    assert once["seconds"] is None


def test_half_precision_halves_the_weights_and_not_the_sums(bert: Path) -> None:
    full = json.loads(good("plan", bert, "--json"))["memory"]
    half = json.loads(good("plan", bert, "--json", "--dtype", "bfloat16"))["memory"]
    assert 2 * half["weights"] == full["weights"]
    assert half["sums"] == full["sums"]


def test_nearest_keeps_records_of_all_examples(bert: Path) -> None:
    words = (bert, "--json", "--estimator", "nearest", "--examples")
    few, many = (
        json.loads(good("plan", *words, n))["memory"]["records"] for n in (10, 30)
    )
    assert many == 3 * few > 0
    assert "without its iterations" in good("plan", bert, "--estimator", "nearest")


def test_a_time_is_estimated_at_the_rate_of_this_machine(bert: Path) -> None:
    assert "GFLOP/s" in good("plan", bert, "--measure")
    assert "GFLOP/s" not in good("plan", bert)
    assert kfac("plan", bert, "--measure", "--gflops", 5).exit_code == 2


def test_a_model_that_needs_numbers_to_go_forward_is_planned_at_most(
    tmp_path: Path,
) -> None:
    config = {"model_type": "xlm", "emb_dim": 8, "n_layers": 1, "n_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_words": 20}))
    said = good("plan", tmp_path)
    assert "sizes are at most these" in said
    assert "operations per example" not in said


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        (None, (), "has no config.json"),
        ({"model_type": "mystery"}, (), "is of architecture 'mystery'"),
        ({}, ("--modules", "nothing.*"), "no parameter is called 'nothing.*'"),
        ({}, ("--tokens", "17"), "tokens 17 is not within 1 and the 16"),
        ({}, ("--output-map", "clip-image"), "does not fit a BertModel"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    bert: Path, config: dict[str, object] | None, words: tuple[str, ...], message: str
) -> None:
    path = bert / "config.json"
    if config is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    result = kfac("plan", bert, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_model_of_70_billion_parameters_takes_seconds_and_little_memory(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    code = (
        "import resource, sys; from kfac_cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, "plan", str(tmp_path), "--json"]
    words += ["--include-tables"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    kilobytes, seconds = map(float, done.stderr.split()[-2:])
    assert kilobytes < 1.5e6
    assert seconds < 60

    found = json.loads(done.stdout)
    attention = 2 * 8192 * 8192 + 2 * 8192 * 1024
    layer = attention + 3 * 8192 * 28672 + 2 * 8192
    table = 128256 * 8192  # one for the tokens that are read, one for their scores
    assert found["parameters"] == 80 * layer + 2 * table + 8192 == 70_553_706_496
    assert found["covered"] == found["parameters"]
    assert found["untraced"] is None
    assert {block["positions"] for block in found["blocks"]} == {128}
    shared = [block["name"] for block in found["blocks"] if block["shared"]]
    assert len(shared) == 3 * 80
    linear = 80 * (attention + 3 * 8192 * 28672)
    products = 80 * 2 * 128 * 8192  # queries with keys, weights with values
    forward = 2 * 128 * (linear + products + table)
    assert found["flops_per_example"]["forward"] == forward


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "0.25 s"), (90, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")],
)
def test_times_are_written_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 FLOP"), (1234, "1.23 kFLOP"), (2e12, "2 TFLOP"), (5e18, "5e+03 PFLOP")],
)
def test_operations_are_written_for_people(count: float, said: str) -> None:
    assert operations(count) == said
