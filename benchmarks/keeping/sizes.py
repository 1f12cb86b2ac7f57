"""How much is trained and measured, and which settings are tried."""

from dataclasses import dataclass

LORA, REPLAY = "lora", "replay"


@dataclass(frozen=True)
class Held:
    """The curvature of an arm.

    Attributes:
        estimator: How it is computed.
        recipe: How it is compressed, if it is.
        texts: What it is of: ``general`` texts, ``talks`` (questions, and what the
            model itself answers) or ``both``, the two artifacts merged.
        share: How much of the texts is taken, 1 / so many.
    """

    estimator: str
    recipe: str | None = None
    texts: str = "general"
    share: int = 1


PENALTIES = {
    "diagonal": Held("diagonal"),
    "inputs": Held("inputs"),
    "kfac": Held("kfac"),
    "nearest": Held("nearest"),
    "ekfac": Held("ekfac"),
    "kfac-small": Held("kfac", recipe="small"),
    "kfac-few": Held("kfac", share=8),
    "kfac-talks": Held("kfac", texts="talks"),
    "kfac-both": Held("kfac", texts="both"),
}
"""The curvature of every arm that has one."""
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
        cross: Whether the other learning rates are tried, too, at the best strength of
            an arm, and not that alone which was chosen for LoRA.
    """

    steps: int = 60
    batch: int = 8
    rank: int = 8
    curvature: int = 128
    tokens: int = 64
    train: int = 1000
    dev: int = 100
    test: int = 200
    texts: int = 48
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    strengths: tuple[float, ...] = (25.0, 125.0, 625.0)
    replays: tuple[int, ...] = (1, 2, 4)
    cross: bool = True


QUICK = Sizes(
    steps=25,
    curvature=64,
    tokens=48,
    train=400,
    dev=64,
    test=96,
    texts=24,
    replays=(2,),
    cross=False,
)
