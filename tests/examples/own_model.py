"""Curvature of a model and data of your own: any module, any tensors.

Run with ``python tests/examples/own_model.py``. It computes the curvature of a small
network, writes it, and asks how far a change of the weights moves the output.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import kfac_artifacts as kfac


def main(folder: Path) -> dict[str, float]:
    """Compare the drift that an artifact predicts with what the network does."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16))
    module.append(nn.Linear(16, 4))

    # f is the function whose change is to be told: here the logits, [examples, 4]
    f = kfac.OutputMap(
        kfac.NamedConfig("org.example/logits"), lambda m, batch: m(batch["x"])
    )
    network = kfac.Network(module, f, "my-model")
    examples = kfac.TensorExamples({"x": torch.randn(256, 8)}, "my-data")

    artifact = kfac.compute(network, examples, estimator=kfac.Nearest())
    kfac.save_artifact(artifact, folder / "curvature")
    artifact = kfac.load_artifact(folder / "curvature")
    print(artifact)
    print("left out:", artifact.provenance.uncovered or "nothing")

    parameters = dict(module.named_parameters())
    tau = {name: 1e-3 * torch.randn_like(p) for name, p in parameters.items()}
    moved = {name: p.detach() + tau[name] for name, p in parameters.items()}
    with torch.no_grad():
        change = torch.func.functional_call(module, moved, examples.tensors["x"])
        change = change - module(examples.tensors["x"])
    true = change.pow(2).sum(1).mean().item()
    predicted = artifact.drift(tau).item()
    print(f"drift: predicted {predicted:.2e}, true {true:.2e}")
    return {"predicted": predicted, "true": true}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
