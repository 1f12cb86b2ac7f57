"""The package as it is imported: at once, whole, and telling what it is."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kfac_artifacts as kfac
from kfac_artifacts import choices
from kfac_artifacts.bridges import Export, Import
from kfac_artifacts.compress.forms.base import Form
from kfac_artifacts.estimate.estimators.base import Estimator
from kfac_artifacts.format.storage.base import Storage
from kfac_artifacts.lazy import Variants
from kfac_artifacts.task_vector.merging.base import MergeMethod, Merging
from kfac_artifacts.train.penalties.base import Penalty
from kfac_artifacts.train.regimes.base import Regime
from tests.artifacts import artifact, tau

NAMES: list[str] = vars(kfac)["__all__"]
HEAVY = {"torch", "accelerate", "transformers", "datasets", "matplotlib"}
TABLES = {n: t for n, t in vars(choices).items() if isinstance(t, Variants)}


def fresh(code: str) -> str:
    """Run code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    found = fresh("import sys, kfac_artifacts; print(*sys.modules)").split()
    assert not {"torch", "transformers", "safetensors", "huggingface_hub"} & set(found)
    assert "kfac_artifacts" in found


def test_functions_are_not_hidden_by_the_modules_that_hold_them() -> None:
    code = (
        "import json, kfac_artifacts as kfac\n"
        "import kfac_artifacts.merge, kfac_artifacts.train, kfac_artifacts.verify\n"
        "from kfac_artifacts.evaluate import evaluate\n"
        "print(json.dumps({n: callable(getattr(kfac, n)) for n in kfac.__all__}))"
    )
    found = json.loads(fresh(code))
    assert all(found.values()), found
    assert set(found) == set(NAMES)


def test_reading_a_header_imports_nothing_heavy(tmp_path: Path) -> None:
    kfac.save_artifact(artifact(), tmp_path / "it")
    code = (
        "import sys\n"
        "from kfac_artifacts.format import read_header\n"
        f"read_header({str(tmp_path / 'it')!r})\n"
        "print(*sys.modules)"
    )
    assert not HEAVY & set(fresh(code).split())


def test_names_of_choices_are_known_without_importing_them() -> None:
    code = "import sys, kfac_artifacts.choices as c\n" + "\n".join(
        f"assert list(c.{name}) and 'nothing' not in c.{name}" for name in TABLES
    )
    assert not HEAVY & set(fresh(code + "\nprint(*sys.modules)").split())


KINDS: dict[str, Callable[[Any], bool]] = {
    "estimator": lambda found: issubclass(found, Estimator),
    "storage": lambda found: isinstance(found, Storage),
    "form": lambda found: issubclass(found, Form),
    "regime": lambda found: issubclass(found, Regime),
    "penalty": lambda found: issubclass(found, Penalty),
    "optimizer": lambda found: isinstance(
        found([torch.zeros(2, requires_grad=True)], 0.1, 0.0), torch.optim.Optimizer
    ),
    "format to export": lambda found: issubclass(found, Export),
    "format to import": lambda found: issubclass(found, Import),
    "merge method": lambda found: issubclass(found, Merging | MergeMethod),
}


@pytest.mark.parametrize(
    ("table", "name"), [(t, name) for t in TABLES.values() for name in t]
)
def test_every_choice_is_of_its_kind_and_where_its_table_says(
    table: Variants, name: str
) -> None:
    assert KINDS[table.kind](table[name])


LAZY = [
    f"kfac_artifacts.{path.parent.name}"
    for path in sorted(Path(kfac.__file__).parent.glob("*/__init__.py"))
    if "export_lazily" in path.read_text("utf-8")
]


def test_what_a_package_lists_can_be_imported_from_it() -> None:
    """After all of its modules: none of them hides a function."""
    code = (
        "import importlib, pkgutil, types\n"
        f"for name in {LAZY}:\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.iter_modules(package.__path__):\n"
        "        importlib.import_module(f'{name}.{module.name}')\n"
        "    for public in package.__all__:\n"
        "        if isinstance(getattr(package, public), types.ModuleType):\n"
        "            print(name, public)"
    )
    assert len(LAZY) >= 8
    assert fresh(code) == ""


def test_every_public_name_is_listed() -> None:
    assert set(NAMES) <= set(dir(kfac))
    assert {"load_network", "push"} <= set(dir(kfac))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kfac.nothing  # type: ignore[attr-defined]


def things() -> list[object]:
    """One of each that holds much."""
    of = artifact()
    base = of.provenance.base
    names = tuple(f"a class of a long name {i}" for i in range(1000))
    head = kfac.ClassifierHead(torch.eye(1000), names, 20.0)
    named = kfac.NamedConfig("logits")
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(100)))
    apply = kfac.OutputMap(named, lambda m, batch: m(batch["x"]))
    return [
        of,
        of.provenance,
        base,
        *of.factors.values(),
        kfac.KfacPenalty(of),
        kfac.CurvatureOperator(of),
        kfac.CurvatureOperator(of).inverse(0.1),
        kfac.TaskVector(tau(), base, named, head),
        head,
        kfac.Network(module, apply, "m" * 500),
        kfac.TensorExamples({"x": torch.zeros(1000, 50)}, "d" * 500),
    ]


@pytest.mark.parametrize(
    "thing", [pytest.param(t, id=f"{i}") for i, t in enumerate(things())]
)
def test_what_holds_much_says_in_short_what_it_is(thing: object) -> None:
    shown = repr(thing)
    assert shown.startswith((type(thing).__name__, "BlockDiagonalOperator"))
    assert len(shown) <= 250
    assert "tensor(" not in shown


def test_an_artifact_says_what_it_is_of() -> None:
    wanted = "Artifact(curvature of 'toy', 3 blocks, 5 factors, 1 tasks of 10 examples)"
    assert repr(artifact()) == wanted
