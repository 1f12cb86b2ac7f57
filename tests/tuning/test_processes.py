"""Several processes with a copy each: the steps of one with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import good
from tests.language.saved import save_model
from tests.language.test_texts import TEXTS, rows

pytest.importorskip("peft")

PROGRAM = """
import sys, torch
from transformers import Trainer
from kfac_artifacts.tuning import KfacCallback
from tests.tuning.adapted import adapted, curvature_of, trained
from tests.tuning.test_trainers import NAME, arguments, texts

out, size, parts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
model = adapted(NAME, dtype=torch.float32)
args = arguments(out, per_device_train_batch_size=size, max_grad_norm=0.5,
    gradient_accumulation_steps=parts, ddp_find_unused_parameters=False)
callback = KfacCallback(curvature_of(NAME), 7.0)
assert args.world_size == int(sys.argv[4])
trainer = Trainer(model, args, train_dataset=texts(), callbacks=[callback])
trainer.train()
if trainer.is_world_process_zero():
    logs = [e["penalty"] for e in trainer.state.log_history if "loss" in e]
    found = {n: p.detach() for n, p in trained(model).items()}
    torch.save({"logs": logs, "found": found}, out + ".pt")
"""

COMMAND = """
import os, sys
from kfac_cli.main import main
print("process", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], file=sys.stderr)
main()
"""


def run(place: Path, processes: int, parts: int) -> Any:
    """What is trained after two steps of four texts."""
    program = place / "program.py"
    program.write_text(PROGRAM)
    out = place / f"{processes}-{parts}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command = [sys.executable, *launch, str(processes)]
    words = [str(program), str(out), str(4 // processes // parts)]
    words += [str(parts), str(processes)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(f"{out}.pt")


@pytest.mark.processes
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    one = run(tmp_path, 1, 1)
    two = run(tmp_path, 2, 2)
    assert two["logs"] == pytest.approx(one["logs"], rel=1e-4)
    for name, value in one["found"].items():
        torch.testing.assert_close(
            two["found"][name], value, rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.mark.processes
def test_accelerate_launches_the_command_on_two_processes(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "LlamaForCausalLM")
    rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    place = tmp_path / "model", tmp_path / "x.jsonl"
    good("compute", *place, "--allow-few", "-o", tmp_path / "general")
    held = ("--curvature", tmp_path / "general", "--lambda", "auto")
    words = ("train", *place, "--lora", "r=2", "--steps", "6", "--batch-size", "4")
    more = ("--eval-data", place[1], "--lr", "0.02", "--json", *held)
    one = json.loads(good(*words, *more, "-o", tmp_path / "one"))
    program = tmp_path / "program.py"
    program.write_text(COMMAND)
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    launch += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0", str(program)]
    given = [*map(str, (*words, *more, "-o", tmp_path / "two"))]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([root, f"{root}/cli"]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",  # with --cpu it starts one process
    }
    done = subprocess.run(
        [sys.executable, *launch, *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert all(f"process {n} of 2" in done.stderr for n in (0, 1))
    two = json.loads(done.stdout)  # one of them speaks
    for name in ("loss", "accuracy", "lam", "penalty"):
        assert two[name] == pytest.approx(one[name], rel=1e-3)
    for state in ("pretrained", "adapted"):
        wanted = pytest.approx(one["held_out"][state], rel=1e-3)
        assert two["held_out"][state] == wanted
    found = [
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "two")
    ]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)
