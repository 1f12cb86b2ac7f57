"""An f that depends on its batch is refused whole; one that does not is let through."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import CoverageError, KfacError, SettingsError
from kfac_artifacts.network import Batch, Network, OutputMap, TensorExamples
from kfac_artifacts.sources import load_examples, load_network, output_map
from tests import models
from tests.computed import compute, compute_with_curvlinops
from tests.models import text_batch

TEXTS = ["the cat sits on a red bird", "a dog", "white", "the bird sings green"]


def _of_statistics(module: nn.Module, batch: Batch) -> Tensor:
    y = module(batch["x"])
    return (y - y.mean(0)) / (1 + y.std(0, correction=0))


def _of_deviations(module: nn.Module, batch: Batch) -> Tensor:
    """Not a number for an example alone."""
    y = module(batch["x"])
    return (y - y.mean(0)) / (y - y.mean(0)).norm(dim=0)


def _of_neighbours(module: nn.Module, batch: Batch) -> Tensor:
    y = module(batch["x"])
    return y + 0.1 * y.roll(1, 0)


def _of_capacity(module: nn.Module, batch: Batch) -> Tensor:
    """Only as many examples as there is room for go through the module."""
    x = batch["x"]
    room = torch.arange(len(x), device=x.device) < 1
    return torch.where(room[:, None], module(x), x[:, :2])


def _points(apply: Callable[[nn.Module, Batch], Tensor]) -> Network:
    torch.manual_seed(0)
    return Network(nn.Linear(3, 2), OutputMap(NamedConfig("mine"), apply), "points")


def _examples() -> TensorExamples:
    return TensorExamples({"x": torch.randn(6, 3)}, "x")


@pytest.mark.parametrize("run", [compute, compute_with_curvlinops])
@pytest.mark.parametrize(
    "apply", [_of_statistics, _of_deviations, _of_neighbours, _of_capacity]
)
def test_an_f_of_the_batch_is_refused_whole(
    run: Callable[..., object], apply: Callable[[nn.Module, Batch], Tensor]
) -> None:
    with pytest.raises(CoverageError, match="the output map 'mine' depends on the b"):
        run(_points(apply), _examples())


def _last_position(module: nn.Module, batch: Batch) -> Tensor:
    return module(**batch).last_hidden_state[:, -1]


def test_an_f_of_the_padding_is_refused_whole(tmp_path: Path) -> None:
    made = models.save_tiny_bert(tmp_path / "bert")
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(TEXTS))
    loaded = load_network(str(made), device="cpu")
    network = Network(
        loaded.module, OutputMap(NamedConfig("end"), _last_position), "bert"
    )
    with pytest.raises(CoverageError, match="'end' depends on the batch: of example"):
        compute(network, load_examples(str(tmp_path / "t.csv"), network))


class Lengthened(TensorExamples):
    """Rows of other lengths, filled up with zeros to the longest; nothing masks them.

    The first and the last are equally long.
    """

    LENGTHS = (2, 7, 3, 2)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        longest = max(self.LENGTHS[index] for index in indices)
        return {"x": super().batch(indices)["x"][:, :longest]}


def test_padding_that_no_mask_tells_of_is_found() -> None:
    x = torch.zeros(4, 7, 3)
    for row, length in enumerate(Lengthened.LENGTHS):
        x[row, :length] = torch.randn(length, 3)
    network = _points(lambda module, batch: module(batch["x"]).mean(1))
    with pytest.raises(CoverageError, match="'mine' depends on the batch: of example"):
        compute(network, Lengthened({"x": x}, "x"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rounding_is_no_dependence(tmp_path: Path, dtype: torch.dtype) -> None:
    made = models.save_tiny_bert(tmp_path / "bert")
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(TEXTS))
    network = load_network(str(made), device="cpu", dtype=dtype)
    assert compute(network, load_examples(str(tmp_path / "t.csv"), network)).blocks


def test_one_example_alone_has_nothing_to_depend_on() -> None:
    network = _points(lambda m, b: m(b["x"]))
    assert compute(network, TensorExamples({"x": torch.randn(1, 3)}, "x")).blocks


WRONG_OUTPUTS = {
    "a dataclass": (lambda m, b: m(**b), "gives a BaseModelOutputWithPool"),
    "a tuple": (lambda m, b: (m(**b)[0][:, 0],), "gives a tuple for 3 examples"),
    "None": (lambda m, b: None, "gives a NoneType"),
    "three axes": (
        lambda m, b: m(**b)[0],
        r"gives a tensor \[3, 5, 8\] of float32 for 3",
    ),
    "one axis": (lambda m, b: m(**b)[0][:, 0, 0], r"gives a tensor \[3\] of"),
    "one number": (lambda m, b: m(**b)[0].sum(), r"gives a tensor \[\] of"),
    "one row": (lambda m, b: m(**b)[0].mean((0, 1))[None], r"gives a tensor \[1, 8\]"),
    "classes": (
        lambda m, b: m(**b)[0][:, 0].argmax(1, keepdim=True),
        r"gives a tensor \[3, 1\] of int64",
    ),
    "complex": (
        lambda m, b: torch.fft.fft(m(**b)[0][:, 0]),
        r"gives a tensor \[3, 8\] of complex64",
    ),
    "no outputs": (lambda m, b: m(**b)[0][:, 0, :0], r"gives a tensor \[3, 0\]"),
}


@pytest.mark.parametrize("kind", WRONG_OUTPUTS)
def test_an_output_map_that_gives_no_matrix_is_one_clear_error(kind: str) -> None:
    apply, message = WRONG_OUTPUTS[kind]
    network = Network(models.tiny_bert(), OutputMap(NamedConfig("mine"), apply), "bert")
    with pytest.raises(SettingsError, match=f"output map 'mine' {message}"):
        network(text_batch())
    with pytest.raises(SettingsError, match=f"output map 'mine' {message}"):
        network.functional_call({}, text_batch())
    with pytest.raises(SettingsError, match="output map 'mine' gives"):
        compute(network, TensorExamples(text_batch(), "x"))


def test_an_output_that_is_not_finite_is_told_as_that() -> None:
    f = OutputMap(NamedConfig("mine"), lambda m, b: m(**b)[0][:, 0] / 0)
    network = Network(models.tiny_bert(), f, "bert")
    with pytest.raises(KfacError, match="output is not finite"):
        compute(network, TensorExamples(text_batch(), "x"))


@pytest.mark.parametrize("name", ["last-token-raw", "mean-pool-raw", "cls-raw"])
def test_a_batch_padded_on_the_left_is_pooled_at_its_own_tokens(name: str) -> None:
    module = models.tiny("llama", dtype=torch.float64)  # its positions are relative
    network = Network(module, output_map(module, name), "llama")
    batch = text_batch()
    turned = {key: torch.zeros_like(value) for key, value in batch.items()}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for key, value in batch.items():
            turned[key][row, -length:] = value[row, :length]
    torch.testing.assert_close(network(turned), network(batch))
