"""The linearised network against brute force: the whole Jacobian, and autograd."""

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.linearize import jvp, linearize
from kfac_artifacts.network import Batch, Network, OutputMap
from kfac_artifacts.sources import output_map
from tests.brute_force import jacobians
from tests.models import (
    EXPERTS,
    IMAGE_MODELS,
    MODELS,
    PAD,
    image_batch,
    text_batch,
    tiny,
    tiny_bert,
)


def _embed(module: nn.Module, batch: Batch) -> Tensor:
    """Mean over the positions of the last hidden state, normalised; images for CLIP."""
    if hasattr(module, "get_image_features"):
        output = module.get_image_features(**batch).pooler_output
    else:
        output = module(**batch).last_hidden_state.mean(1)
    return nn.functional.normalize(output, dim=-1)


def _network(kind: str, dtype: torch.dtype = torch.float64) -> Network:
    module = MODELS[kind](dtype=dtype)
    return Network(module, OutputMap(NamedConfig("test"), _embed), f"tiny-{kind}")


def _batch(kind: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return image_batch(dtype=dtype) if kind in IMAGE_MODELS else text_batch()


def _some(network: Network) -> list[str]:
    """A weight, a bias or norm of it, and a table: what f reaches, but not all."""
    wanted = ("layers.1.", "layer.1.", "block.1.", "h.1.", "embeddings", "wte")
    names = [n for n in network.parameters() if any(part in n for part in wanted)]
    return [n for n in names if "text_model" not in n and "position" not in n]


def _random(values: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for name, v in values.items()
    }
    for name in drawn.keys() & {"embeddings.word_embeddings.weight"}:
        drawn[name][PAD] = 0  # reverse mode never moves the row of the padding token
    return drawn


def _tolerance(kind: str) -> dict[str, float]:
    """T5 takes the mean of its norms in float32 whatever it is given."""
    return (
        {"rtol": 1e-6, "atol": 1e-7} if kind == "t5" else {"rtol": 1e-8, "atol": 1e-10}
    )


def _jacobian(
    network: Network, names: list[str], batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    parameters = network.parameters()
    values = {name: parameters[name].detach() for name in names}
    with forward_mode_kernels():
        return torch.func.jacrev(
            functools.partial(network.functional_call, batch=batch)
        )(values)


def _move(model: nn.Module, tau: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.tau().items():
            value.copy_(tau[name])


@pytest.mark.parametrize("kind", MODELS)
def test_output_is_f_plus_jacobian_times_tau(kind: str) -> None:
    network, batch = _network(kind), _batch(kind)
    names = _some(network)
    model = linearize(network, names)
    tau = _random(model.tau())
    _move(model, tau)
    expected = network(batch)
    for name, J in _jacobian(network, names, batch).items():
        expected = expected + J.flatten(2) @ tau[name].flatten()
    torch.testing.assert_close(model(batch), expected, **_tolerance(kind))


@pytest.mark.parametrize("kind", MODELS)
def test_gradient_is_that_of_autograd_through_the_jacobian(kind: str) -> None:
    network, batch = _network(kind), _batch(kind)
    names = _some(network)
    model = linearize(network, names)
    start = _random(model.tau())
    _move(model, start)
    jacobian = _jacobian(network, names, batch)
    tau = {n: t.clone().requires_grad_() for n, t in start.items()}
    brute = network(batch).detach()
    for name, J in jacobian.items():
        brute = brute + J.flatten(2) @ tau[name].flatten()
    labels = torch.tensor([0, 1, 2])
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(brute, labels), list(tau.values())
    )
    nn.functional.cross_entropy(model(batch), labels).backward()
    for value, gradient in zip(model.tau().values(), expected, strict=True):
        torch.testing.assert_close(value.grad, gradient, **_tolerance(kind))


def test_gradient_passes_gradcheck() -> None:
    network, batch = _network("bert"), _batch("bert")
    model = linearize(network, [n for n in _some(network) if "output.dense.bias" in n])
    names = list(model.tau())

    def call(*values: Tensor) -> Tensor:
        named = {f"tau/{n.replace('.', '/')}": v for n, v in zip(names, values)}  # noqa: B905
        return torch.func.functional_call(model, named, (batch,))

    values = tuple(v.requires_grad_() for v in _random(model.tau()).values())
    assert torch.autograd.gradcheck(call, values)


def test_going_back_again_gives_the_same_gradient() -> None:
    network, batch = _network("bert"), _batch("bert")
    model = linearize(network, _some(network))
    loss = model(batch).square().sum()
    once = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(model.parameters()))
    assert all(map(torch.equal, once, again))


def test_a_step_runs_the_network_once() -> None:
    network, batch = _network("bert"), _batch("bert")
    model = linearize(network, [n for n in network.parameters() if "layer.1." in n])
    model(batch)  # forward mode is tried once
    calls: list[nn.Module] = []
    handle = network.module.register_forward_hook(lambda m, *_: calls.append(m))
    model(batch).sum().backward()
    handle.remove()
    assert len(calls) == 1


class _Kept:
    """What autograd has saved, as long as it is."""

    def __init__(self, saved: Tensor) -> None:
        self.saved = saved


def test_tangents_are_forgotten_on_the_way() -> None:
    layers = [part for _ in range(20) for part in (nn.Linear(4, 4), nn.Tanh())]
    module = nn.Sequential(*layers).double()
    f = OutputMap(NamedConfig("test"), lambda m, b: m(b["x"]))
    network = Network(module, f, "deep")
    model = linearize(network, [*network.shapes])
    batch = {"x": torch.ones(3, 4, dtype=torch.float64)}
    model(batch)  # forward mode is tried once
    saved: weakref.WeakSet[_Kept] = weakref.WeakSet()
    counts: list[int] = []

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor.detach())
        saved.add(kept)
        counts.append(len(saved))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.saved):
        plain = module(batch["x"])
        ordinary = len(saved)
        del plain
        counts.clear()
        output = model(batch)
    assert max(counts) < ordinary + len(layers) / 2
    assert len(saved) == ordinary
    output.sum().backward()


def test_linearised_network_is_affine_in_tau() -> None:
    network, batch = _network("vit"), _batch("vit")
    model = linearize(network, _some(network))
    a, b = _random(model.tau(), 1), _random(model.tau(), 2)
    outputs = []
    for tau in (a, b, {n: 2.0 * a[n] - 3.0 * b[n] for n in a}):
        _move(model, tau)
        outputs.append(model(batch) - network(batch))
    torch.testing.assert_close(outputs[2], 2.0 * outputs[0] - 3.0 * outputs[1])


def test_zero_tau_gives_the_pretrained_output() -> None:
    network, batch = _network("bert"), _batch("bert")
    model = linearize(network, _some(network))
    torch.testing.assert_close(model(batch), network(batch), rtol=1e-12, atol=1e-12)


def test_a_shared_parameter_moves_everywhere() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        @override
        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    module = Tied().double()
    network = Network(
        module, OutputMap(NamedConfig("test"), lambda m, b: m(b["x"])), "tied"
    )
    tau = {"first.weight": torch.full((3, 3), 0.1, dtype=torch.float64)}
    batch = {"x": torch.ones(2, 3, dtype=torch.float64)}
    _, change = jvp(network, tau, batch)
    step = 1e-6
    moved = {"first.weight": module.first.weight + step * tau["first.weight"]}
    difference = (network.functional_call(moved, batch) - network(batch)) / step
    torch.testing.assert_close(change, difference, rtol=1e-4, atol=1e-5)


def test_model_is_left_as_it_was_found() -> None:
    network, batch = _network("bert"), _batch("bert")
    network.module.requires_grad_(requires_grad=False)
    before = {n: t.clone() for n, t in network.module.state_dict().items()}
    model = linearize(network, _some(network))
    model(batch).sum().backward()
    after = network.module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not any(p.requires_grad for p in network.module.parameters())
    assert all(p.grad is None for p in network.module.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_tau_of_a_half_precision_network_is_float32() -> None:
    network = _network("vit", torch.bfloat16)
    model = linearize(network, _some(network))
    output = model(_batch("vit", torch.bfloat16))
    output.sum().backward()
    tensors = [output, *model.tau().values()]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert all(t.grad is not None for t in model.tau().values())


def test_multihead_attention_takes_a_path_with_forward_mode() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).double().eval()
    network = Network(
        layer, OutputMap(NamedConfig("test"), lambda m, b: m(b["x"]).mean(1)), "layer"
    )
    tau = _random({n: p.detach() for n, p in network.parameters().items()})
    batch = {"x": torch.randn(2, 3, 8, dtype=torch.float64)}
    _, change = jvp(network, tau, batch)
    assert change.abs().sum() > 0


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x


def _opaque(x: Tensor) -> Any:
    return _Opaque.apply(x)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("inside", [False, True])
def test_operation_without_forward_mode_is_named(inside: bool) -> None:
    """Whether it is in f, or in a model whose errors are told in a line."""
    if inside:
        module = tiny_bert()
        module.get_submodule("embeddings").register_forward_hook(
            lambda _, __, x: _opaque(x)
        )
        network = Network(module, output_map(module), "opaque")
        model, batch = linearize(network, _some(network)), text_batch()
    else:
        f = OutputMap(NamedConfig("test"), lambda m, b: _opaque(m(b["x"])))
        model = linearize(Network(nn.Linear(2, 2), f, "opaque"), ["weight"])
        batch = {"x": torch.ones(1, 2)}
    with pytest.raises(CoverageError, match=r"Opaque has no forward-mode.*a jvp"):
        model(batch)


def _mixture(kind: str) -> Network:
    module = tiny(kind)
    module.config._experts_implementation = "grouped_mm"
    return Network(module, OutputMap(NamedConfig("test"), _embed), kind)


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_mixture_of_experts_is_linearised(kind: str) -> None:
    network, batch = _mixture(kind), text_batch()
    parameters = network.parameters()
    names = [n for n in parameters if "layers.1." in n]
    model = linearize(network, names)
    tau = _random(model.tau())
    _move(model, tau)
    J = jacobians(network, batch)
    change = sum(J[name].flatten(2) @ value.flatten() for name, value in tau.items())
    output = model(batch)
    torch.testing.assert_close(output, network(batch) + change, rtol=1e-5, atol=1e-6)
    output.sum().backward()
    assert all(value.grad.any() for n, value in model.tau().items() if "mlp" in n)
    assert network.module.config._experts_implementation == "grouped_mm"
    assert not any("forward" in vars(part) for part in network.module.modules())


class _Cube(torch.autograd.Function):
    """As models write them: without a forward-mode rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


@torch.library.custom_op("kfac_tests::cube", mutates_args=())
def _cube(x: Tensor) -> Tensor:
    return x**3


def _save_input(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])


_cube.register_autograd(_Cube.backward, setup_context=_save_input)


@pytest.mark.parametrize("cube", [_Cube.apply, _cube])
def test_an_operation_that_forward_mode_cannot_see_changes_nothing(
    cube: Callable[[Tensor], Tensor],
) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()

    def network(cube: Callable[[Tensor], Tensor]) -> Network:
        f = OutputMap(
            NamedConfig("test"), lambda m, b: m[1](cube(m[0](b["x"])) + b["x"][:, :1])
        )
        return Network(module, f, "cube")

    batch = {"x": torch.randn(5, 3, dtype=torch.float64)}
    tau = _random({n: p.detach() for n, p in module.named_parameters()})
    _, expected = jvp(network(lambda x: x**3), tau, batch)
    _, change = jvp(network(cube), tau, batch)
    torch.testing.assert_close(change, expected)


@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_an_operation_that_can_be_differentiated_once_only_is_never_left_out(
    beside: float,
) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * gradients[0]

    def f(module: nn.Module, batch: Batch) -> Tensor:
        x = module(batch["x"])
        return Once.apply(x) + beside * x  # type: ignore[no-untyped-call]

    network = Network(nn.Linear(3, 2), OutputMap(NamedConfig("test"), f), "once")
    tau = _random({n: p.detach() for n, p in network.parameters().items()})
    with pytest.raises(CoverageError, match="differentiated once only"):
        jvp(network, tau, {"x": torch.ones(4, 3)})


def test_fused_kernel_without_forward_mode_is_named() -> None:
    def fused(module: nn.Module, batch: Batch) -> Tensor:
        x = module(batch["x"])[None, None]
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attend(x, x, x)[0][0, 0]

    network = Network(nn.Linear(4, 4), OutputMap(NamedConfig("test"), fused), "fused")
    with pytest.raises(CoverageError, match="flash_attention_for_cpu has no forward"):
        linearize(network, ["weight"])({"x": torch.ones(3, 4)})


def test_other_errors_of_the_model_pass_through() -> None:
    network = Network(
        nn.Linear(4, 4), OutputMap(NamedConfig("test"), lambda m, b: m(b["x"])), "wrong"
    )
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linearize(network, ["weight"])({"x": torch.ones(3, 5)})


def test_a_parameter_that_no_example_reaches_does_not_move_the_output() -> None:
    f = OutputMap(NamedConfig("test"), lambda m, b: m[0](b["x"]))
    network = Network(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), f, "two")
    model, x = linearize(network, ["1.weight"]), torch.ones(3, 4)
    output = model({"x": x})
    torch.testing.assert_close(output, network({"x": x}))
    output.sum().backward()
    (tau,) = model.parameters()
    assert tau.grad is not None
    assert not tau.grad.any()


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(CoverageError, match=r"tiny-bert in nope"):
        linearize(_network("bert"), ["nope"])


def test_no_parameter_is_refused() -> None:
    with pytest.raises(CoverageError, match="at least one"):
        linearize(_network("bert"), [])
