"""Continual training as by EWC: learn a second task, keep the first one.

Run with ``python tests/examples/continual.py``. The curvature of the first task is
computed while its data are at hand; later only the artifact is needed, and the ordinary
(not linearised) network is trained on the second task with the penalty on what changed
(Kirkpatrick et al. 2017 with a diagonal; Ritter et al. 2018 with Kronecker factors).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import kfac_artifacts as kfac

FIRST, SECOND = slice(0, 2), slice(2, 4)  # logits of the two tasks


def main() -> dict[str, float]:
    """Train on two tasks one after the other, with and without the penalty."""
    torch.manual_seed(0)
    first, second = _task(0, 1), _task(2, 3)
    logits = kfac.NamedConfig("org.example/logits-of-the-first")
    f = kfac.OutputMap(logits, lambda m, batch: m(batch["x"])[:, FIRST])

    kept = {}
    for weight in (0.0, 0.3):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4))
        _train(module, *first, FIRST)
        network = kfac.Network(module, f, "my-model")
        data = kfac.TensorExamples({"x": first[0]}, "first")
        penalty = kfac.KfacPenalty(kfac.compute(network, data))
        _train(module, *second, SECOND, penalty=penalty, weight=weight)
        scores = _accuracy(module, *first, FIRST), _accuracy(module, *second, SECOND)
        kept[f"{weight:g}"] = scores[0]
        print(f"penalty {weight:g}: first {scores[0]:.1%}, second {scores[1]:.1%}")
    return kept


def _task(a: int, b: int) -> tuple[Tensor, Tensor]:
    """Two classes that two of the inputs tell apart; the others are noise."""
    x = torch.randn(400, 8)
    return x, (x[:, a] * x[:, b] > 0).long()


def _train(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    head: slice,
    *,
    penalty: kfac.KfacPenalty | None = None,
    weight: float = 0.0,
) -> None:
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(300):
        loss = cross_entropy(module(x)[:, head], y)
        if penalty is not None and weight > 0:
            tau = {name: p - start[name] for name, p in module.named_parameters()}
            loss = loss + weight * penalty(tau)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _accuracy(module: nn.Module, x: Tensor, y: Tensor, head: slice) -> float:
    return (module(x)[:, head].argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    main()
