"""Many pushes into one directory at once, and readers meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfac_artifacts.hub import pull
from tests.hub.conftest import contents, write_artifact
from tests.running import Process, finish

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
KINDS, READERS, FIRST = 5, 3, 20

TOGETHER = """
import errno, json, os, sys, time, traceback
from pathlib import Path
from kfac_artifacts.errors import KfacError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub import pull, push
from kfac_artifacts.places import exchange

root, pushes, kinds, readers = Path(sys.argv[1]), *map(int, sys.argv[3:])
one_step = sys.argv[2] == "one step"
if not one_step:  # a system that cannot do it so
    exchange._call = lambda one, other: errno.ENOSYS
place, go = root / "registry" / "b", root / "go"

def start(name, work):
    child = os.fork()
    if child:
        return child
    said = {"good": 0, "bad": []}
    while not go.exists():
        time.sleep(0.001)
    try:
        work(said)
    except Exception:
        said["bad"].append(traceback.format_exc())
    (root / "said" / name).write_text(json.dumps(said))
    os._exit(0)

def pushing(number):
    def work(said):
        push(root / f"kind-{number % kinds}", str(place))
        said["good"] += 1
    return work

def reading(number):
    def work(said):
        while not (root / "over").exists():
            if number % 3 == 0:
                pull(str(place), root / f"copy-{number}", replace=True)
            elif number % 3 == 1:
                artifact = load_artifact(place)
                try:
                    for name in artifact.factors:
                        artifact.factors[name]
                except KfacError as error:  # said in one line, which is all that can be
                    assert "was replaced since it was opened" in str(error), error
            else:
                load_artifact(place, verify=False)
            assert (place / "kfac.json").is_file() or not one_step  # without any help
            said["good"] += 1
    return work

(root / "said").mkdir()
push(root / "kind-0", str(place))
reader = [start(f"reader-{i}", reading(i)) for i in range(readers)]
pusher = [start(f"pusher-{i}", pushing(i)) for i in range(pushes)]
go.touch()
for child in pusher:
    os.waitpid(child, 0)
(root / "over").touch()
for child in reader:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("way", "pushes"), [("one step", 50), ("two steps", 25)])
def test_all_of_many_pushes_succeed_and_readers_see_one_of_them(
    tmp_path: Path, way: str, pushes: int
) -> None:
    digests = {}
    for i in range(KINDS):
        made = write_artifact(tmp_path / f"kind-{i}", seed=i, shard_bytes=80 + 1000 * i)
        digests[str(contents(made))] = i
    numbers = map(str, (pushes, KINDS, READERS))
    subprocess.run(
        [sys.executable, "-c", TOGETHER, tmp_path, way, *numbers],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    said = [json.loads(f.read_text()) for f in (tmp_path / "said").iterdir()]
    assert len(said) == pushes + READERS
    assert [line for one in said for line in one["bad"]] == []
    assert all(one["good"] for one in said)
    place = tmp_path / "registry" / "b"
    assert str(contents(place)) in digests
    # no lock, no leftovers: the versions that others took the place of, each whole
    versions = [p for p in place.parent.iterdir() if p != place]
    assert {p.name.partition("@kfac-")[0] for p in versions} == {"b"}
    assert {str(contents(p)) for p in (place, *versions)} == digests.keys()
    for number, version in enumerate(versions):
        pull(str(version), tmp_path / f"version-{number}")
    pull(str(place), tmp_path / "last")


def test_many_first_pushes_at_once_succeed(tmp_path: Path) -> None:
    """The folders above the place are not there either."""
    kinds = [write_artifact(tmp_path / f"kind-{i}", seed=i) for i in range(KINDS)]
    place = tmp_path / "registry" / "org" / "b"
    code = "import sys; from kfac_artifacts.hub import push; push(*sys.argv[1:])"
    ran = [
        Process(["-c", code, str(kinds[i % KINDS]), str(place)]) for i in range(FIRST)
    ]
    assert [(status, said) for status, _, said in finish(ran) if status] == []
    assert str(contents(place)) in {str(contents(kind)) for kind in kinds}
