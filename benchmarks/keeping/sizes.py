"""How much is trained and measured, and which settings are tried."""

from dataclasses import dataclass

LORA, REPLAY = "lora", "replay"
PENALTIES = {
    "diagonal": ("diagonal", None),
    "inputs": ("inputs", None),
    "kfac": ("kfac", None),
    "nearest": ("nearest", None),
    "ekfac": ("ekfac", None),
    "kfac-small": ("kfac", "small"),
}
"""Estimator and recipe of an arm's curvature."""
ARMS = (LORA, *PENALTIES, REPLAY)


@dataclass(frozen=True)
class Sizes:
    """Numbers that decide what is measured.

    Attributes:
        steps: Of a training.
        batch: Rows of the task in a step.
        rank: Of the adapter.
        curvature: How many general texts the curvature is computed on.
        tokens: Of a general text, at most.
        train: Rows of the task to train on.
        dev: Rows of the task to choose by.
        test: Rows of the task to report.
        texts: General texts of a kind to measure forgetting on.
        rates: Learning rates.
        strengths: What the unpenalised adapter would pay at λ, in nats.
        replays: General texts in a step, beside the rows of the task.
        every_rate: Whether penalties and replay are tried with every learning rate, and
            not with that alone which was chosen for LoRA.
    """

    steps: int = 60
    batch: int = 8
    rank: int = 8
    curvature: int = 128
    tokens: int = 64
    train: int = 1000
    dev: int = 200
    test: int = 400
    texts: int = 64
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    strengths: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
    replays: tuple[int, ...] = (1, 2, 4)
    every_rate: bool = True


QUICK = Sizes(
    steps=25,
    curvature=64,
    tokens=48,
    train=400,
    dev=64,
    test=96,
    texts=24,
    rates=(1e-3, 3e-3),
    strengths=(1.0, 5.0, 25.0),
    replays=(2,),
    every_rate=False,
)
