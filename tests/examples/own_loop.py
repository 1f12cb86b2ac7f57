"""The penalty in a training loop of your own: two tasks, trained apart, added up.

Run with ``python tests/examples/own_loop.py``. Each task is a regression on inputs of
its own; its task vector is trained with the other one's curvature, and without.
"""

import torch
from torch import Tensor, nn

import kfac_artifacts as kfac

STEPS, RATE = 300, 3e-3


def main() -> dict[str, float]:
    """Train two task vectors with and without the penalty, and add them up."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
    f = kfac.OutputMap(
        kfac.NamedConfig("org.example/prediction"), lambda m, batch: m(batch["x"])
    )
    network = kfac.Network(module, f, "my-model")

    # task 1 lives in the first three inputs, task 2 in the others
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    inputs = [torch.randn(256, 6) * m for m in (mask, 1 - mask)]
    mixed = [torch.sin(2 * x @ torch.randn(6, 2)) for x in inputs]
    targets = [module(x).detach() + y for x, y in zip(inputs, mixed, strict=True)]
    curvature = [
        kfac.compute(network, kfac.TensorExamples({"x": x}, f"task-{number}"))
        for number, x in enumerate(inputs, 1)
    ]

    losses = {}
    for weight in (0.0, 30.0):
        taus = [
            _train(network, inputs[own], targets[own], curvature[1 - own], weight)
            for own in (0, 1)
        ]
        total = {name: taus[0][name] + taus[1][name] for name in taus[0]}
        losses[f"{weight:g}"] = sum(
            _loss(network, total, x, y).item()
            for x, y in zip(inputs, targets, strict=True)
        )
        print(f"penalty {weight:g}: loss of the sum {losses[f'{weight:g}']:.3f}")
    return losses


def _train(
    network: kfac.Network, x: Tensor, y: Tensor, others: kfac.Artifact, weight: float
) -> dict[str, Tensor]:
    penalty = kfac.KfacPenalty(others)
    f = kfac.linearize(network, penalty.parameters)  # a module; its parameters are τ
    optimizer = torch.optim.AdamW(f.parameters(), lr=RATE, weight_decay=0.0)
    for _ in range(STEPS):
        loss = (f({"x": x}) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        penalty.backward(f.tau(), weight)  # adds its gradient
        optimizer.step()
    return {name: value.detach() for name, value in f.tau().items()}


def _loss(
    network: kfac.Network, tau: dict[str, Tensor], x: Tensor, y: Tensor
) -> Tensor:
    """The loss of the linearised network with a task vector added."""
    f = kfac.linearize(network, tuple(tau))
    with torch.no_grad():
        for name, value in f.tau().items():
            value.copy_(tau[name])
        return (f({"x": x}) - y).pow(2).mean()


if __name__ == "__main__":
    main()
