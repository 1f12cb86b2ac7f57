"""Several processes with a copy each: the steps of one with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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
