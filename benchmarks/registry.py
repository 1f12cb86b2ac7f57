"""A small registry on real weights and texts, to look at, search, pull from and train.

Three owners compute the curvature of all-MiniLM-L6-v2 on their texts, sign it with a
key of their own, and add it to a registry, a plain directory; it keeps their total, and
each of them compressed as well. Then it is checked, and written as a page, and somebody
with a fourth set of texts, who knows nothing but where it is, searches it, pulls the
total and trains. Every command is printed as it is given.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import click

import assets
from cli_session import (
    MODEL,
    MODEL_ID,
    TASKS,
    TOKENS,
    compute,
    kfac,
    prepare,
    say,
)
from kfac_artifacts import KfacError

NEWCOMER = "clinc"
"""The texts of somebody who is in no registry yet: requests, 150 intents."""
RECIPES = ("small", "block-8")
STEPS = 20


def main() -> None:
    """Build the registry, look at it, and use it as a newcomer would."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path("registry-demo"), help="where everything goes"
    )
    work = parser.parse_args().work
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    if work.exists() and not (work / MODEL).is_symlink():
        raise SystemExit(f"{work} is there, and not of an earlier run; give another")
    shutil.rmtree(work, ignore_errors=True)
    prepare(work)
    os.chdir(work)
    for task in TASKS:
        _publish(task)
    _look()
    _use()
    print(
        f"\n{work}/registry is the registry, {work}/registry.html shows it; this took "
        f"{time.perf_counter() - started:.0f} s"
    )


def _publish(task: str) -> None:
    """What an owner does."""
    say(f"{task}: its owner computes the curvature, signs it, and adds it")
    compute(task, f"{task}/curvature", seed=0)
    _make_key(Path(task))
    kfac(f"sign {task}/curvature --key {task}/key.pem")
    recipes = " ".join(f"--recipe {recipe}" for recipe in RECIPES)
    kfac(f"registry add {task}/curvature registry {recipes}")


def _look() -> None:
    """What anybody can do who wants to know what is there."""
    say("Everybody can look at it, prove it, and see who made what")
    kfac("registry list registry", lines=20)
    kfac("registry check registry")
    task = next(iter(TASKS))
    kfac(f"pull registry {task}/again --tasks {task}")
    kfac(f"verify {task}/again --key {task}/key.pub", lines=20)
    kfac("registry export-static registry registry.html")


def _use() -> None:
    """The newcomer's three commands."""
    import pandas as pd

    say("A newcomer finds it, pulls, and trains beside everybody else's tasks")
    texts = pd.read_csv(assets.bolt(NEWCOMER, "train"), sep="\t")
    texts.to_csv("mine.csv", index=False)
    kfac(f"search registry --base-model {MODEL_ID}", lines=20)
    kfac("pull registry total")
    kfac(
        f"train {MODEL} mine.csv --curvature total --steps {STEPS} "
        f"--max-length {TOKENS} -o tau-mine"
    )


def _make_key(place: Path) -> None:
    """Make the pair of keys that ``openssl ecparam -name prime256v1`` makes."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    public = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    (place / "key.pem").write_bytes(secret)
    (place / "key.pub").write_bytes(public)


if __name__ == "__main__":
    try:
        main()
    except (assets.AssetError, click.ClickException, KfacError) as error:
        sys.exit(f"Error: {error}")
