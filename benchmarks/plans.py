"""What ``kfac plan`` says of many families at their real sizes.

``configurations.json`` has, of every model, the configuration and how many parameters
its checkpoint has, without copies of tied ones; a plan that counts others fails. No
weights are read, and T5 is planned with its decoder (``--output-map lm-fisher``). Of
every model: the output map, parameters, how many of them blocks cover, the number of
blocks, the size of the artifact and the seconds that the command takes. With ``--json``
all of it in one last line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGURATIONS = Path(__file__).with_name("configurations.json")
HEADER = ("model", "output map", "parameters", "covered", "blocks", "artifact", "s")


def main() -> None:
    """Plan every model, and print a line for each."""
    known = json.loads(CONFIGURATIONS.read_text("utf-8"))
    options = _options(known)
    print(_line(HEADER))
    found = {}
    for name in options.models or known:
        found[name] = _planned(name, **known[name])
        _show(name, found[name])
        if found[name]["parameters"] != known[name]["parameters"]:
            raise SystemExit(
                f"{name} has {known[name]['parameters']:,} parameters, and the plan "
                f"counts {found[name]['parameters']:,}"
            )
    if options.json:
        print(json.dumps(found))


def _options(known: dict[str, Any]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", choices=[*known, []], help="some alone")
    add("--json", action="store_true", help="print everything in one last line")
    return parser.parse_args()


def _planned(
    name: str, config: dict[str, Any], options: Sequence[str] = (), **_: Any
) -> dict[str, Any]:
    """Run the command on a directory with nothing but the configuration."""
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / name
        model.mkdir()
        (model / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "kfac_artifacts", "plan", str(model)]
        command += ["--json", *options]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        seconds = time.perf_counter() - started
    plan = json.loads(done.stdout)
    return {
        "output_map": plan["output_map"],
        "parameters": plan["parameters"],
        "covered": plan["covered"],
        "blocks": len(plan["blocks"]),
        "bytes": plan["storages"]["symmetric-float32"],
        "seconds": seconds,
    }


def _show(name: str, found: dict[str, Any]) -> None:
    size = f"{found['bytes'] / 1e9:.1f} GB"
    counts = (f"{found[key]:,}" for key in ("parameters", "covered", "blocks"))
    print(_line((name, found["output_map"], *counts, size, f"{found['seconds']:.0f}")))


def _line(cells: tuple[str, ...]) -> str:
    name, output_map, *numbers = cells
    shown = "".join(f"{cell:>16}" for cell in numbers)
    return f"{name:22}{output_map:12}{shown}"


if __name__ == "__main__":
    main()
