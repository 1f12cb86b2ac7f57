"""Algebra of task vectors, and files that are read with distrust."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kfac_artifacts.artifact import NamedConfig
from kfac_artifacts.errors import FormatError, MismatchError, PlaceError
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.task_vector import ClassifierHead, TaskVector, merge_task_vectors
from tests.places.made import when_opened

MAP = NamedConfig("mean", {"normalised": True})


class Points(TensorExamples):
    """Three labelled points."""

    labels = (1, 0, 1)
    classes = ("b", "a")


POINTS = Points({"x": torch.zeros(3, 3)}, "points")


def _network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return Network(module, OutputMap(MAP, lambda m, b: m(b["x"])), "tiny")


def _vector(network: Network, names: tuple[str, ...], seed: int = 1) -> TaskVector:
    generator = torch.Generator().manual_seed(seed)
    parameters = network.parameters()
    tensors = {n: torch.randn(parameters[n].shape, generator=generator) for n in names}
    return TaskVector(tensors, network.base.restrict(set(names)), MAP)


def _full(network: Network) -> TaskVector:
    vector = _vector(network, ("0.bias", "2.weight"))
    head = ClassifierHead(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), ("a", "b"), 20.0)
    return dataclasses.replace(
        vector, head=head, settings={"lr": 0.1}, metrics={"loss": 0.25}
    )


def _assert_equal(found: TaskVector, expected: dict[str, Tensor]) -> None:
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found.tensors[name], tensor)


def test_sum_over_different_parameters_is_their_union() -> None:
    network = _network()
    a, b = _vector(network, ("0.bias", "2.bias")), _vector(network, ("2.bias",), 2)
    expected = {
        "0.bias": a.tensors["0.bias"],
        "2.bias": a.tensors["2.bias"] + b.tensors["2.bias"],
    }
    _assert_equal(a + b, expected)
    _assert_equal(b + a, {n: expected[n] for n in ("2.bias", "0.bias")})


def test_multiples_scale_every_tensor() -> None:
    a = _vector(_network(), ("0.bias",))
    _assert_equal(0.5 * a, {"0.bias": 0.5 * a.tensors["0.bias"]})
    _assert_equal(-a, {"0.bias": -a.tensors["0.bias"]})
    _assert_equal(merge_task_vectors([a, a], [2.0, -1.0]), dict(a.tensors))


def test_combining_nothing_is_refused() -> None:
    with pytest.raises(MismatchError, match="at least one"):
        merge_task_vectors([], [])


def test_sum_of_two_base_models_lists_every_difference() -> None:
    a = _vector(_network(0), ("0.bias", "2.bias"))
    b = _vector(_network(5), ("0.bias", "2.bias"))
    with pytest.raises(MismatchError, match=r"other values in 0\.bias, 2\.bias"):
        a + b


def test_disjoint_vectors_of_differently_named_models_are_refused() -> None:
    network = _network()
    a, b = _vector(network, ("0.bias",)), _vector(network, ("2.bias",))
    other = TaskVector(b.tensors, dataclasses.replace(b.base, id="other"))
    with pytest.raises(MismatchError, match="share no parameter"):
        a + other
    assert set((a + b).tensors) == {"0.bias", "2.bias"}


def test_apply_adds_in_place_and_may_be_repeated() -> None:
    network, vector = _network(), _vector(_network(), ("0.bias",))
    before = network.parameters()["0.bias"].detach().clone()
    vector.apply(network)
    vector.apply(network)
    expected = before + vector.tensors["0.bias"] + vector.tensors["0.bias"]
    torch.testing.assert_close(network.parameters()["0.bias"].detach(), expected)


def test_apply_refuses_another_base_with_all_differences() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    other = Network(module, OutputMap(MAP, lambda m, b: m(b["x"])), "wide")
    vector = _vector(_network(), ("0.bias", "2.bias"))
    with pytest.raises(MismatchError) as error:
        vector.apply(other)
    assert "0.bias has shape [5] in wide, not [4] as in tiny" in str(error.value)
    assert "wide has other values in 2.bias" in str(error.value)


def test_add_to_a_state_leaves_the_state_alone() -> None:
    network, vector = _network(), _vector(_network(), ("0.bias",))
    state = {n: t.to(torch.bfloat16) for n, t in network.module.state_dict().items()}
    before = state["0.bias"].clone()
    moved = vector.add_to(state)
    assert torch.equal(state["0.bias"], before)
    assert moved["2.bias"] is state["2.bias"]
    expected = (before.float() + vector.tensors["0.bias"]).to(torch.bfloat16)
    assert torch.equal(moved["0.bias"], expected)
    with pytest.raises(MismatchError, match=r"0\.bias"):
        vector.add_to({})


def test_tensors_must_be_those_of_the_base() -> None:
    base = _network().base.restrict({"0.bias"})
    with pytest.raises(MismatchError, match=r"0\.bias are not"):
        TaskVector({"0.bias": torch.zeros(9)}, base)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    vector = _full(_network())
    vector.save(tmp_path / "a")
    found = TaskVector.load(tmp_path / "a")
    assert found.tensors.keys() == vector.tensors.keys()
    for name, tensor in vector.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
    assert (found.base, found.output_map) == (vector.base, vector.output_map)
    assert (found.settings, found.metrics) == (vector.settings, vector.metrics)
    assert isinstance(found.head, ClassifierHead)
    assert isinstance(vector.head, ClassifierHead)
    assert torch.equal(found.head.embeddings, vector.head.embeddings)
    assert (found.head.classes, found.head.logit_scale) == (("a", "b"), 20.0)


def test_same_input_gives_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    network = _network()
    names = ("0.bias", "2.weight", "2.bias")
    vector = _vector(network, names)
    turned = {n: vector.tensors[n] for n in reversed(names)}
    vector.save(tmp_path / "a")
    TaskVector(turned, vector.base, MAP).save(tmp_path / "b")
    for name in ("task_vector.json", "task_vector.safetensors"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
    TaskVector.load(tmp_path / "a").save(tmp_path / "c")
    manifest = (tmp_path / "c" / "task_vector.json").read_bytes()
    assert manifest == (tmp_path / "a" / "task_vector.json").read_bytes()


def test_a_plain_safetensors_reader_finds_the_changes(tmp_path: Path) -> None:
    vector = _full(_network())
    vector.save(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "task_vector.safetensors")
    assert set(tensors) == {"tau/0.bias", "tau/2.weight", "head/embeddings"}
    assert torch.equal(tensors["tau/0.bias"], vector.tensors["0.bias"])


def test_a_taken_place_is_refused_unless_replaced(tmp_path: Path) -> None:
    vector = _full(_network())
    vector.save(tmp_path / "a")
    with pytest.raises(PlaceError, match="exists already"):
        vector.save(tmp_path / "a")
    vector.save(tmp_path / "a", replace=True)


def test_entries_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    network = _network()
    vector = _vector(network, ("0.bias",))
    vector.tensors["0.bias"][0] = float("nan")
    with pytest.raises(FormatError, match="not finite"):
        vector.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def _flip_a_byte(path: Path, _: dict[str, Any]) -> None:
    file = path / "task_vector.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _truncate(path: Path, _: dict[str, Any]) -> None:
    file = path / "task_vector.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _remove_tensors(path: Path, _: dict[str, Any]) -> None:
    (path / "task_vector.safetensors").unlink()


def _replace_tensors(path: Path, manifest: dict[str, Any], tensors: Any) -> None:
    from kfac_artifacts.format.files import sha256_file

    file = path / "task_vector.safetensors"
    save_file(tensors, file)
    info = {"size": file.stat().st_size, "sha256": sha256_file(file)}
    manifest["files"] = {file.name: info}


def _write_nan(path: Path, manifest: dict[str, Any]) -> None:
    tensors = load_file(path / "task_vector.safetensors")
    tensors["tau/0.bias"][0] = float("nan")
    _replace_tensors(path, manifest, tensors)


def _write_half(path: Path, manifest: dict[str, Any]) -> None:
    tensors = load_file(path / "task_vector.safetensors")
    tensors["tau/0.bias"] = tensors["tau/0.bias"].half()
    _replace_tensors(path, manifest, tensors)


def _write_extra(path: Path, manifest: dict[str, Any]) -> None:
    tensors = load_file(path / "task_vector.safetensors")
    _replace_tensors(path, manifest, tensors | {"tau/extra": torch.zeros(1)})


def _set(key: str, value: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(_: Path, manifest: dict[str, Any]) -> None:
        manifest[key] = value

    return change


DAMAGES: dict[str, tuple[Callable[[Path, dict[str, Any]], None], str]] = {
    "flipped byte": (_flip_a_byte, "sha256 is not the one"),
    "truncated": (_truncate, "does not have the"),
    "no tensors": (_remove_tensors, "is missing"),
    "not finite": (_write_nan, r"tau/0\.bias has entries that are not finite"),
    "another number type": (_write_half, r"tau/0\.bias is"),
    "unexpected tensor": (_write_extra, "tau/extra"),
    "another format": (_set("format", "kfac-artifact"), "format is 'kfac-artifact'"),
    "newer version": (_set("version", 2), "version 2 of kfac-task-vector is not known"),
    "unknown field": (_set("extra", 1), "unknown field 'extra'"),
    "outside file": (_set("files", {"../x": {"size": 9, "sha256": "0" * 64}}), "files"),
    "settings of wrong type": (_set("settings", []), "settings must be an object"),
    "one class": (
        _set("head", {"classes": ["a"], "dim": 2, "logit_scale": 1.0}),
        "classes must be 2",
    ),
    "classes twice": (
        _set("head", {"classes": ["a", "a"], "dim": 2, "logit_scale": 1.0}),
        "classes must be 2",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    path = tmp_path / "a"
    _full(_network()).save(path)
    manifest = json.loads((path / "task_vector.json").read_text())
    damage(path, manifest)
    (path / "task_vector.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=message):
        TaskVector.load(path)


def test_unknown_field_that_need_not_be_understood_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a"
    _full(_network()).save(path)
    manifest = json.loads((path / "task_vector.json").read_text())
    manifest["note"] = {"must_understand": False}
    (path / "task_vector.json").write_text(json.dumps(manifest))
    TaskVector.load(path)


def test_directory_without_manifest_is_no_task_vector(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no task vector"):
        TaskVector.load(tmp_path)
    _full(_network()).save(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")


def test_head_gives_scaled_cosines() -> None:
    head = ClassifierHead(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), ("a", "b"), 10.0)
    logits = head.logits(torch.tensor([[0.3, 0.4]]))
    torch.testing.assert_close(logits, torch.tensor([[6.0, 8.0]]))


def test_head_refuses_outputs_of_another_size() -> None:
    head = ClassifierHead(torch.eye(2), ("a", "b"), 10.0)
    with pytest.raises(MismatchError, match="outputs of size 2, the network's have 3"):
        head.logits(torch.zeros(1, 3))


def test_head_matches_classes_by_name() -> None:
    head = ClassifierHead(torch.eye(3), ("a", "b", "c"), 1.0)
    assert head.targets(POINTS).tolist() == [0, 1, 0]
    with pytest.raises(MismatchError, match="classes 'b' that the head"):
        ClassifierHead(torch.eye(2), ("a", "c"), 1.0).targets(POINTS)


@pytest.mark.parametrize("classes", [("a",), ("a", "b", "c"), ("a", "a")])
def test_head_needs_one_name_per_class(classes: tuple[str, ...]) -> None:
    with pytest.raises(MismatchError):
        ClassifierHead(torch.eye(2), classes, 1.0)


def test_one_that_is_replaced_while_it_is_read_is_read_anew(tmp_path: Path) -> None:
    network, place = _network(), tmp_path / "tau"
    old, new = _full(network), _vector(network, ("2.bias",))
    old.save(place)
    with when_opened(
        place / "task_vector.safetensors", lambda: new.save(place, replace=True)
    ):
        found = TaskVector.load(place)
    assert found.head is None
    _assert_equal(found, dict(new.tensors))


def test_one_that_is_replaced_all_the_time_is_read_whole_or_not(tmp_path: Path) -> None:
    """As by a process that saves after every step; its header may change, too."""
    vectors = [_full(_network()), _vector(_network(), ("2.bias",))]
    place = tmp_path / "tau"
    vectors[0].save(place)
    child = os.fork()
    if not child:
        for i in range(120):
            vectors[i % 2].save(place, replace=True)
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        found = TaskVector.load(place)
        _assert_equal(found, dict(vectors[int(found.head is None)].tensors))
