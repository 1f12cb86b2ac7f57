"""Nothing that a configuration names is fetched or run."""

import json
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from transformers import dynamic_module_utils
from transformers.integrations import hub_kernels

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_network
from kfac_artifacts.sources.meta_model import load_skeleton
from tests.models import SavedModel


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What ``transformers`` would have fetched and run."""
    calls: list[object] = []

    def fetch(*arguments: object, **options: object) -> None:
        calls.append((arguments, options))
        raise ImportError("fetched")

    for module, name in (
        (hub_kernels, "get_kernel"),
        (hub_kernels, "load_and_register_attn_kernel"),
        (dynamic_module_utils, "get_class_from_dynamic_module"),
        (dynamic_module_utils, "get_cached_module_file"),
    ):
        monkeypatch.setattr(module, name, fetch)
    return calls


def changed(model: Path, tmp_path: Path, name: str, changes: dict[str, Any]) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    file = copy / name
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}))
    return copy


@pytest.mark.parametrize("load", [load_network, load_skeleton])
@pytest.mark.parametrize(
    "entry",
    [
        {"attn_implementation": "org/kernels"},
        {"_attn_implementation": "org/kernels@main:flash"},
        {"_attn_implementation_internal": {"": "sdpa", "text_config": "org/kernels"}},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "paged|org/kernels"},
        {"experts_implementation": "org/experts"},
        {"text_config": {"attn_implementation": "org/kernels"}},
        {"use_kernels": True},
        {"kernel_config": {"RMSNorm": "org/kernels:RMSNorm"}},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
    ids=str,
)
def test_kernels_are_refused_by_name(
    saved_model: SavedModel,
    tmp_path: Path,
    fetched: list[object],
    entry: dict[str, Any],
    load: Callable[[str], object],
) -> None:
    model = changed(saved_model("bert"), tmp_path, "config.json", entry)
    with pytest.raises(SourceError, match=f"config.json has '{next(iter(entry))}"):
        load(str(model))
    assert fetched == []


@pytest.mark.parametrize("load", [load_network, load_skeleton])
def test_code_of_a_repository_is_not_run(
    saved_model: SavedModel,
    tmp_path: Path,
    fetched: list[object],
    load: Callable[[str], Any],
) -> None:
    names = {
        "AutoConfig": "org/code--configuration.Configuration",
        "AutoModel": "org/code--modeling.Model",
    }
    entry = {"auto_map": names, "_name_or_path": "org/code", "trust_remote_code": True}
    model = changed(saved_model("bert"), tmp_path, "config.json", entry)
    (model / "modeling.py").write_text("raise SystemExit('run')")
    assert type(load(str(model)).module).__name__ == "BertModel"
    assert fetched == []


def test_what_torch_itself_computes_may_be_named(
    saved_model: SavedModel, tmp_path: Path
) -> None:
    entry = {"_attn_implementation": "eager", "_attn_implementation_autoset": True}
    model = changed(saved_model("bert"), tmp_path, "config.json", entry)
    assert load_network(str(model)).module.config._attn_implementation == "eager"


def test_kernels_that_no_configuration_names_are_not_fetched(
    saved_model: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some architectures ask for kernels when they are built, and get none."""
    from transformers import BertModel

    enabled = []
    build = BertModel.__init__

    @wraps(build)
    def init(self: BertModel, *arguments: Any, **options: Any) -> None:
        enabled.append(hub_kernels._kernels_enabled)
        build(self, *arguments, **options)

    monkeypatch.setattr(BertModel, "__init__", init)
    monkeypatch.setattr(hub_kernels, "_kernels_enabled", True)
    load_network(str(saved_model("bert")))
    assert enabled
    assert not any(enabled)
    assert hub_kernels._kernels_enabled
