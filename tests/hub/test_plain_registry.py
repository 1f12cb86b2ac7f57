"""A registry in a plain directory."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from kfac_artifacts.errors import FormatError, MismatchError, PlaceError, RegistryError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import pull
from kfac_artifacts.registry import (
    Collection,
    Offer,
    add,
    check,
    compress_total,
    open_registry,
    read_registry,
    remove,
    withdraw,
)
from tests.commands import bad, good
from tests.hub.conftest import Made

ROOT = Path(__file__).parents[2]


def the_collection(place: Path) -> Collection:
    (found,) = read_registry(place)[1].index.collections.values()
    return found


def the_total(place: Path) -> Path:
    (found,) = place.glob("*/total/*")
    return found


def wrong(place: Path) -> list[str]:
    return list(check(*read_registry(place)))


@pytest.mark.parametrize("seed", range(2))
def test_after_any_history_the_total_is_the_merge_of_what_is_in_it(
    tmp_path: Path, made: Made, seed: int
) -> None:
    drawn, place = random.Random(seed), tmp_path / "registry"
    registry, inside = open_registry(place), set[int]()
    for _ in range(5):
        number = drawn.randrange(5)
        if number in inside:
            remove(registry, f"data{number}")
        else:
            add(registry, Offer(made(number)))
        inside ^= {number}
        assert wrong(place) == []
        if not inside:
            assert list(place.glob("*/total/*")) == []
            continue
        total = load_artifact(the_total(place))
        parts = [load_artifact(made(n)) for n in sorted(inside)]
        sizes = [part.provenance.size for part in parts]
        for name, factor in total.factors.items():
            matrices = [part.factors[name].to_dense().double() for part in parts]
            weights = [1.0] * len(parts)
            if not name.endswith("B"):  # TAK, Eq. 8
                weights = [size / sum(sizes) for size in sizes]
            expected = sum(w * m for w, m in zip(weights, matrices, strict=True))
            found = factor.to_dense().double()
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_total_depends_on_what_is_in_it_and_on_nothing_else(
    tmp_path: Path, made: Made
) -> None:
    totals = set()
    for order in ([0, 1, 2], [2, 1, 0], [1, 3, 2, 0]):
        place = tmp_path / "-".join(map(str, order))
        done = [add(open_registry(place), Offer(made(n))) for n in order][-1]
        if 3 in order:
            done = remove(open_registry(place), "data3")
        totals.add(done.total)
    good("merge", *(made(n) for n in range(3)), "-o", tmp_path / "merged")
    assert totals == {load_artifact(tmp_path / "merged").digest}


def test_adding_again_changes_nothing(tmp_path: Path, made: Made) -> None:
    registry = open_registry(tmp_path / "registry")
    assert add(registry, Offer(made(0))).changed
    assert not add(registry, Offer(made(0))).changed
    assert len(registry.state().index.changes) == 1


def test_a_signature_that_comes_late_is_not_passed_over_in_silence(
    tmp_path: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    registry = open_registry(tmp_path / "registry")
    add(registry, Offer(made(0)))
    (made(0) / "model.sig").write_text("{}")
    assert not add(registry, Offer(made(0))).changed
    assert "its signature is not added" in caplog.text
    withdraw(registry, "data0")
    add(registry, Offer(made(0)))
    caplog.clear()
    assert not add(registry, Offer(made(0))).changed
    assert "signature" not in caplog.text


def test_a_version_gives_way_only_if_asked_and_stays(
    tmp_path: Path, made: Made
) -> None:
    place = tmp_path / "registry"
    registry = open_registry(place)
    first = add(registry, Offer(made(0), "mine"))
    with pytest.raises(RegistryError, match=r"a task 'mine' already.*--new-version"):
        add(registry, Offer(made(1), "mine"))
    second = add(registry, Offer(made(1), "mine", new_version=True))
    assert the_collection(place).current["mine"].artifact.digest == second.digest
    (old,) = place.glob(f"*/tasks/mine/kfac-{(first.digest or '')[7:19]}")
    assert pull(old, tmp_path / "copy").digest == first.digest
    back = add(registry, Offer(made(0), "mine", new_version=True))
    assert back.total == first.total
    assert wrong(place) == []


def test_compressed_forms_are_published_beside(tmp_path: Path, made: Made) -> None:
    place = tmp_path / "registry"
    registry = open_registry(place)
    add(registry, Offer(made(0)))
    assert add(registry, Offer(made(0), recipes=("block-2", "int8"))).changed
    assert set(the_collection(place).current["data0"].variants) == {"block-2", "int8"}
    assert wrong(place) == []


def test_one_task_under_two_names_is_refused(tmp_path: Path, made: Made) -> None:
    registry = open_registry(tmp_path / "registry")
    add(registry, Offer(made(0), "one"))
    with pytest.raises(MismatchError, match="counted twice"):
        add(registry, Offer(made(0), "other"))
    assert list(registry.state().index.changes[0].variants) == []
    assert wrong(tmp_path / "registry") == []


@pytest.mark.parametrize("which", ["*/tasks/data0/*", "*/total/*"])
def test_check_finds_a_flipped_bit(tmp_path: Path, made: Made, which: str) -> None:
    place = tmp_path / "registry"
    for number in range(2):
        add(open_registry(place), Offer(made(number)))
    (file,) = place.glob(f"{which}/factors.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "factors.safetensors" in bad("registry", "check", place, code=3)


def test_check_finds_a_total_of_something_else(tmp_path: Path, made: Made) -> None:
    place = tmp_path / "registry"
    for number in range(2):
        add(open_registry(place), Offer(made(number)))
    total = the_total(place)
    shutil.rmtree(total)
    shutil.copytree(made(2), total)
    assert "is not the artifact that registry.json names" in wrong(place)[0]


def test_a_total_that_is_no_merge_is_found(tmp_path: Path, made: Made) -> None:
    """Even if the index names it."""
    place = tmp_path / "registry"
    for number in range(2):
        add(open_registry(place), Offer(made(number)))
    other = load_artifact(made(2)).digest or ""
    total = the_total(place)
    index = json.loads((place / "registry.json").read_text())
    (collection,) = index["collections"].values()
    collection["total"]["digest"] = other
    (place / "registry.json").write_text(json.dumps(index))
    shutil.copytree(made(2), total.with_name(f"kfac-{other[7:19]}"))
    assert "is not the merge of what is in it" in wrong(place)[0]


def test_an_index_that_does_not_follow_from_its_changes_is_refused(
    tmp_path: Path, made: Made
) -> None:
    place = tmp_path / "registry"
    add(open_registry(place), Offer(made(0)))
    index = json.loads((place / "registry.json").read_text())
    (collection,) = index["collections"].values()
    collection["tasks"]["data1"] = collection["tasks"].pop("data0")
    (place / "registry.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="not what its changes come to"):
        read_registry(place)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "../../x"),
        ("task", "a/b"),
        ("collection", ".."),
        ("task", "-x"),
        ("task", "a..b"),
        ("name", "../x"),
        ("date", "today"),
        ("action", "replace"),
    ],
)
def test_hostile_names_are_refused(
    tmp_path: Path, made: Made, key: str, value: str
) -> None:
    place = tmp_path / "registry"
    add(open_registry(place), Offer(made(0)))
    index = json.loads((place / "registry.json").read_text())
    index["changes"][0][key] = value
    (place / "registry.json").write_text(json.dumps(index))
    with pytest.raises(FormatError):
        read_registry(place)


def test_a_change_that_its_index_lacks_is_taken_up(tmp_path: Path, made: Made) -> None:
    """As a run leaves it that is killed, or whose index another one has overwritten."""
    place = tmp_path / "registry"
    add(open_registry(place), Offer(made(0)))
    before = (place / "registry.json").read_bytes()
    add(open_registry(place), Offer(made(1)))
    (place / "registry.json").write_bytes(before)
    assert "lacks changes" in wrong(place)[0]
    done = add(open_registry(place), Offer(made(2)))
    assert done.tasks == ("data0", "data1", "data2")
    assert wrong(place) == []


def test_a_directory_with_other_things_is_no_registry(
    tmp_path: Path, made: Made
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(PlaceError, match=r"holds other things.*letter\.txt"):
        add(open_registry(tmp_path / "mine"), Offer(made(0)))
    assert "no registry" in bad("registry", "list", tmp_path / "nothing")


def test_the_commands_tell_what_is_there(tmp_path: Path, made: Made) -> None:
    place = tmp_path / "registry"
    for number in range(2):
        good("registry", "add", made(number), place, "--license", "mit")
    assert "data1" in good("registry", "list", place)
    listed = json.loads(good("registry", "list", place, "--json"))
    (collection,) = listed["collections"].values()
    assert collection["tasks"]["data0"]["license"] == "mit"
    assert collection["total"]["tasks"] == 2
    done = json.loads(good("registry", "remove", place, "data0", "--json"))
    assert done["tasks"] == ["data1"]
    lines = good("registry", "log", place).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["add", "add", "remove"]
    assert "are whole" in good("registry", "check", place)
    assert "no collection has data0" in bad("registry", "remove", place, "data0")


TOGETHER = """
import logging, os, sys, traceback
from pathlib import Path
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import KfacError
from kfac_artifacts.registry import Offer, add, open_registry, read_registry
from tests.artifacts import artifact

logging.disable(logging.WARNING)
root, count = Path(sys.argv[1]), int(sys.argv[2])
for i in range(count):
    save_artifact(artifact(i, 100 + i), root / f"data{i}", storage="float32")
add(open_registry(root / "other"), Offer(root / "data0"))  # what it takes is imported

def run(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
    except Exception:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def adding(i):
    return lambda: add(open_registry(root / "registry"), Offer(root / f"data{i}"))

children = [run(adding(i)) for i in range(count)]
while not (root / "registry" / "registry.json").exists():
    pass
seen = [0]
while children:
    registry, state = read_registry(root / "registry")
    for each in state.index.collections.values():
        seen.append(len(each.current))
        assert each.total and each.total.entry.tasks == len(each.current)
    done, status = os.waitpid(-1, os.WNOHANG)
    if done:
        children.remove(done)
        assert status == 0
assert seen == sorted(seen)
"""


@pytest.mark.processes
def test_of_many_that_add_at_once_none_is_lost(tmp_path: Path) -> None:
    count = 40
    subprocess.run(
        [sys.executable, "-c", TOGETHER, tmp_path, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=500,
    )
    place = tmp_path / "registry"
    assert set(the_collection(place).current) == {f"data{i}" for i in range(count)}
    assert wrong(place) == []
    assert len(list(place.glob("*/total/*"))) == 1
    assert not list(place.rglob(".*"))  # no lock, no leftovers


def test_the_index_and_the_changes_follow_the_schema(
    tmp_path: Path, made: Made
) -> None:
    schema = json.loads((ROOT / "spec/schema/registry.schema.json").read_text())
    judge = Draft202012Validator(schema)
    place = tmp_path / "registry"
    registry = open_registry(place)
    add(registry, Offer(made(0), recipes=("block-2",), license="mit"))
    add(registry, Offer(made(1)))
    remove(registry, "data1")
    compress_total(registry, ["int8"])
    add(registry, Offer(made(2)))
    withdraw(registry, "data2")
    index = json.loads((place / "registry.json").read_text())
    judge.validate(index)
    change = judge.evolve(
        schema={**schema["$defs"]["change"], "$defs": schema["$defs"]}
    )
    for file in (place / "log").iterdir():
        change.validate(json.loads(file.read_text()))
    index["changes"][0]["task"] = "../x"
    assert not judge.is_valid(index)
