"""A Laplace approximation: how sure is a network, where it has seen no data?

Run with ``python tests/examples/laplace.py``. With noise of variance σ² the posterior
of the weights is ``N(θ0, (n G / σ² + δ I)⁻¹)`` (MacKay 1992; Ritter et al. 2018), the
variance of the output at x ``J(x) (n G / σ² + δ I)⁻¹ J(x)ᵀ``: one product with the
damped inverse of an artifact's operator.
"""

import torch
from torch import Tensor, nn

import kfac_artifacts as kfac

COUNT, PRIOR, NOISE = 200, 1.0, 0.1


def main() -> dict[str, float]:
    """Fit a sine between -2 and 2, and compare the variance inside and outside."""
    torch.manual_seed(0)
    x = 4 * torch.rand(COUNT, 1) - 2
    y = torch.sin(2 * x) + NOISE * torch.randn(COUNT, 1)
    module = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    _fit(module, x, y)

    f = kfac.OutputMap(
        kfac.NamedConfig("org.example/value"), lambda m, batch: m(batch["x"])
    )
    network = kfac.Network(module, f, "sine")
    data = kfac.TensorExamples({"x": x}, "sine-data")
    exact = kfac.Cotangents("exact", None, 0)
    artifact = kfac.compute(network, data, cotangents=exact)

    # n / σ² G + δ I = n / σ² (G + δ σ² / n I)
    scale = COUNT / NOISE**2
    operator = kfac.CurvatureOperator(artifact, dtype=torch.float64)
    inverse = operator.inverse(PRIOR / scale)
    found = {}
    for name, place in (("inside", 0.5), ("outside", 6.0)):
        point = torch.tensor([[place]])
        J = operator.join(_jacobian(network, tuple(operator.parameters), point))
        variance = (J.double() @ (inverse @ J)).item() / scale
        found[name] = variance**0.5
        print(f"at {place}: {module(point).item():.2f} ± {found[name]:.3f}")
    return found


def _fit(module: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(500):
        loss = (module(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _jacobian(
    network: kfac.Network, names: tuple[str, ...], x: Tensor
) -> dict[str, Tensor]:
    parameters = network.parameters()
    values = [parameters[name] for name in names]
    grads = torch.autograd.grad(network({"x": x}).sum(), values)
    return dict(zip(names, grads, strict=True))


if __name__ == "__main__":
    main()
