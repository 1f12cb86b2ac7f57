"""The curvature of a language model that is larger than the memory it is given.

A model like Llama of random weights is written to the current directory, in files of
bfloat16 or float32, and ``kfac compute --stream`` goes through it in a process whose
data may take no more than a limit (``RLIMIT_DATA``): what it asks for beyond that
fails. Printed are the largest memory that the process had (``VmHWM``, with everything
that it mapped), and its time. What was written is removed at the end.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

GB = 10**9
FULL = {"hidden_size": 2048, "intermediate_size": 5632, "vocab_size": 32000}
QUICK = {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 2000}
HEAD = 64
RECORDING = ("ekfac", "nearest")
FOLDER = Path("streaming")
MODEL, TEXTS, OUTPUT = FOLDER / "model", FOLDER / "texts.jsonl", FOLDER / "artifact"
WORDS = "<unk> <s> </s>"


def main() -> None:
    """Write a model, compute its curvature, and print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="0.1 GB of weights under 1 GB")
    add("--gigabytes", type=float, help="of weights; 8 unless --quick")
    add("--limit", type=float, help="gigabytes of memory; 3 unless --quick")
    add("--dtype", choices=["bfloat16", "float32"], default="float32")
    add("--estimator", default="inputs")
    add("--examples", type=int, default=64)
    add("--tokens", type=int, default=32)
    add("--batch-size", type=int, default=8)
    add("--json", action="store_true", help="print the results in one last line")
    options = parser.parse_args()
    size = options.gigabytes or (0.1 if options.quick else 8)
    limit = options.limit or (1 if options.quick else 3)
    dtype = getattr(torch, options.dtype)
    MODEL.mkdir(parents=True)
    try:
        layers = write_model(MODEL, QUICK if options.quick else FULL, size, dtype)
        write_texts(TEXTS, options.examples, options.tokens)
        weights = sum(f.stat().st_size for f in MODEL.glob("*.safetensors"))
        print(f"{layers} blocks, {weights / GB:.2f} GB of {options.dtype}", flush=True)
        found = measure(options, limit) | {"weights": weights, "limit": limit * GB}
    finally:
        shutil.rmtree(FOLDER)
    print(
        f"{options.estimator}: peak {found['peak'] / GB:.2f} GB under a limit of "
        f"{limit:g} GB, {found['seconds']:.0f} s, artifact {found['artifact'] / GB:.2f}"
        f" GB, {options.examples} texts of {options.tokens} tokens"
    )
    if options.json:
        print(json.dumps(found))


def write_model(
    path: Path, widths: dict[str, int], size: float, dtype: torch.dtype
) -> int:
    """Write a Llama of random weights, one file for each block; gives their number."""
    from transformers import LlamaConfig

    d, inner, words = widths.values()
    block = 4 * d * d + 3 * d * inner + 2 * d
    layers = round((size * GB / dtype.itemsize - 2 * words * d - d) / block)
    heads = d // HEAD
    shape = {"num_attention_heads": heads, "num_key_value_heads": heads}
    config = LlamaConfig(
        **widths, **shape, num_hidden_layers=layers, architectures=["LlamaForCausalLM"]
    )
    config.save_pretrained(path)
    write_tokenizer(path, words)
    outer = {
        "model.embed_tokens.weight": (words, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (words, d),
    }
    owners: dict[str, str] = {}
    for number in range(layers + 1):
        last = number == layers
        shapes = outer if last else block_shapes(f"model.layers.{number}", d, inner)
        name = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        save_file(random_tensors(shapes, number, dtype), path / name)
        owners |= dict.fromkeys(shapes, name)
    index = {"metadata": {}, "weight_map": owners}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return layers


def block_shapes(name: str, d: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a block."""
    attention = {f"self_attn.{p}_proj": (d, d) for p in "qkvo"}
    mlp = {f"mlp.{p}_proj": (inner, d) for p in ("gate", "up")}
    norms = {n: (d,) for n in ("input_layernorm", "post_attention_layernorm")}
    all_of = attention | mlp | {"mlp.down_proj": (d, inner)} | norms
    return {f"{name}.{part}.weight": shape for part, shape in all_of.items()}


def random_tensors(
    shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Draw weights of a usual size; norms are about one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        found[name] = (noise * 0.02 + (len(shape) == 1)).to(dtype)
    return found


def write_tokenizer(path: Path, words: int) -> None:
    """Write a tokenizer that knows numbers, each a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [*WORDS.split(), *map(str, range(words - 3))]
    model = models.WordLevel({word: i for i, word in enumerate(known)}, "<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = ("unk_token", "bos_token", "eos_token")
    special = dict(zip(roles, WORDS.split(), strict=True))
    special["pad_token"] = special["eos_token"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(path)


def write_texts(path: Path, count: int, tokens: int) -> None:
    """Write texts of random words."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 1000, (count, tokens), generator=generator).tolist()
    lines = [json.dumps({"text": " ".join(map(str, row))}) for row in numbers]
    path.write_text("\n".join(lines))


def measure(options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Compute in a process of its own, and read what memory it took meanwhile."""
    run = "from kfac_cli.main import main; main()"
    command = [sys.executable, "-c", run, "compute", MODEL, "--stream"]
    command += ["--allow-few"]  # random words are nobody's
    command += [TEXTS, "-o", OUTPUT]
    command += ["--estimator", options.estimator, "--examples", str(options.examples)]
    command += ["--batch-size", str(options.batch_size)]
    if options.estimator in RECORDING:
        command += ["--memory", "500MB"]
    bound = int(limit * GB)
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [*map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=sys.stderr,
    )
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (bound, bound))
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"kfac compute ended with {process.returncode}")
    size = sum(f.stat().st_size for f in OUTPUT.iterdir())
    return {
        "peak": peak,
        "seconds": time.perf_counter() - started,
        "artifact": size,
    }


def high_water(pid: int) -> int:
    """Most memory that a process has had, in bytes; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


if __name__ == "__main__":
    main()
