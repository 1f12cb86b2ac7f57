"""The vectors against the library, the schema and the independent reader."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
import reader_json
import reader_manifest
import reader_values
import torch
from hypothesis import given, strategies as st
from jsonschema import Draft202012Validator

from kfac_artifacts.canonical import canonical_json
from kfac_artifacts.errors import FormatError, MismatchError
from kfac_artifacts.format import load_artifact
from kfac_artifacts.format.manifest import manifest_from_json
from kfac_artifacts.merge import merge
from kfac_artifacts.verify import verify
from tests.artifacts import written_out
from tests.each import for_each
from tests.spec_refusals import unnoticed

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors"
INDEX = json.loads((VECTORS / "index.json").read_text())
VALID: list[str] = INDEX["valid"]
INVALID: dict[str, dict[str, Any]] = INDEX["invalid"]
SCHEMA = Draft202012Validator(
    json.loads((SPEC / "schema/kfac.schema.json").read_text())
)


def of_levels(*levels: str) -> list[str]:
    return [name for name, entry in INVALID.items() if entry["level"] in levels]


def manifest(vector: Path) -> Any:
    return json.loads((vector / "kfac.json").read_text())


def expected(name: str) -> Any:
    return json.loads((VECTORS / "valid" / name / "expected.json").read_text())


@for_each(VALID)
def test_a_valid_vector_is_read_exactly(name: str) -> None:
    artifact = load_artifact(VECTORS / "valid" / name)
    matrices = expected(name)["factors"]
    assert artifact.factors.keys() == matrices.keys()
    for factor, matrix in matrices.items():
        found = artifact.factors[factor].to_dense()
        assert torch.equal(found, torch.tensor(matrix, dtype=torch.float32))


@for_each(VALID)
def test_a_valid_vector_means_the_expected_drift(name: str) -> None:
    artifact = load_artifact(VECTORS / "valid" / name)
    wanted = expected(name)
    tau = {n: torch.tensor(v, dtype=torch.float32) for n, v in wanted["tau"].items()}
    for block_name, block in artifact.blocks.items():
        W = block.gather(tau)
        value = float((W * block.product(W, artifact.factors)).sum())
        assert value == pytest.approx(wanted["blocks"][block_name], rel=1e-6)
    assert float(artifact.drift(tau)) == pytest.approx(wanted["drift"], rel=1e-6)


@for_each(VALID)
def test_the_reader_reads_a_valid_vector_exactly(name: str) -> None:
    found = reader.verify(VECTORS / "valid" / name)
    matrices = expected(name)["factors"]
    assert found.keys() == matrices.keys()
    for factor, matrix in matrices.items():
        assert found[factor].dtype == np.float32
        shown = written_out(found[factor])
        np.testing.assert_array_equal(shown, np.array(matrix, np.float32))


@for_each(VALID)
def test_a_valid_vector_has_the_expected_digest(name: str) -> None:
    wanted = expected(name)["digest"]
    assert load_artifact(VECTORS / "valid" / name).digest == wanted
    assert reader.digest_of(VECTORS / "valid" / name) == wanted


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.integers()
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda values: (
            st.lists(values) | st.dictionaries(st.text("aé\ue000\U0001f600\t"), values)
        ),
        max_leaves=8,
    )
)
def test_reader_and_product_agree_on_the_canonical_form(value: object) -> None:
    assert reader.canonical(value).encode() == canonical_json(value)


def test_the_layout_of_a_manifest_changes_no_digest(tmp_path: Path) -> None:
    """So the task cannot be counted twice, and can be taken out."""
    vectors = VECTORS / "valid"
    shutil.copytree(vectors / "part-1", tmp_path / "part")
    value = json.loads((tmp_path / "part/kfac.json").read_text())
    text = json.dumps(dict(reversed(value.items())), indent=7).replace(": 1,", ": 1 ,")
    (tmp_path / "part/kfac.json").write_text(text)
    again = load_artifact(tmp_path / "part")
    one, two = (load_artifact(vectors / f"part-{i}") for i in (1, 2))
    with pytest.raises(MismatchError, match="twice"):
        merge([one, again])
    rest = merge([merge([one, two])], exclude=[again])
    assert [s.digest for s in rest.provenance.sources] == [two.digest]


@for_each(VALID)
def test_schema_and_verifier_accept_a_valid_vector(name: str) -> None:
    vector = VECTORS / "valid" / name
    SCHEMA.validate(manifest(vector))
    assert [f for f in verify(vector) if not f.good] == []


@for_each(of_levels("json", "schema", "manifest", "files"))
def test_an_invalid_vector_is_refused_without_looking_at_hashes(name: str) -> None:
    with pytest.raises(FormatError):
        load_artifact(VECTORS / "invalid" / name, verify=False)
    with pytest.raises(reader.Refused):
        reader.read(VECTORS / "invalid" / name, hashes=False)


@for_each(of_levels("values"))
def test_broken_values_are_refused_when_they_are_decoded(name: str) -> None:
    factors = load_artifact(VECTORS / "invalid" / name, verify=False).factors
    refused = []
    for factor in factors:
        try:
            factors[factor]
        except FormatError as error:
            refused.append((factor, str(error)))
    ((factor, message),) = refused
    assert message.startswith(f"{factor} is damaged")


@for_each(of_levels("values"))
def test_the_reader_refuses_broken_values(name: str) -> None:
    vector = VECTORS / "invalid" / name
    reader.read_manifest((vector / "kfac.json").read_bytes())
    with pytest.raises(reader.Refused):
        reader.read(vector)


@for_each(of_levels("hash"))
def test_a_wrong_hash_is_refused(name: str) -> None:
    load_artifact(VECTORS / "invalid" / name, verify=False)
    with pytest.raises(FormatError, match="sha256"):
        load_artifact(VECTORS / "invalid" / name)
    with pytest.raises(reader.Refused):
        reader.read(VECTORS / "invalid" / name)


@for_each(INVALID)
def test_the_verifier_refuses_every_invalid_vector(name: str) -> None:
    findings = verify(VECTORS / "invalid" / name)
    assert any(not finding.good for finding in findings)


@for_each(INVALID)
def test_the_independent_verifier_refuses_every_invalid_vector(name: str) -> None:
    with pytest.raises(reader.Refused):
        reader.verify(VECTORS / "invalid" / name)


IMPLIED = {
    "'too much JSON'": "it takes 64 MiB to show",
    "'no manifest, or no regular file'": "no vector can hold a pipe",
    "'length of the header'": "then the header is none, or the file ends too early",
    "'rows of the blocks'": "then no tensors fit both the blocks and dim",
    "'kept'": "then no mask has as many bits",
}
"""Refusals that no vector can show alone, and why."""


def test_no_refusal_of_the_reader_could_be_left_out_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With any one switched off, a vector is no longer refused."""
    modules = (reader_json, reader_manifest, reader, reader_values)
    found = unnoticed(
        INVALID,
        lambda name: reader.verify(VECTORS / "invalid" / name),
        modules,
        modules,
        monkeypatch,
    )
    assert found == IMPLIED.keys()


@for_each(of_levels("verify"))
def test_a_reader_reads_what_only_a_verifier_refuses(name: str) -> None:
    artifact = load_artifact(VECTORS / "invalid" / name)
    found = reader.read(VECTORS / "invalid" / name)
    assert {factor: f.dim for factor, f in artifact.factors.items()} == {
        factor: len(matrix) for factor, matrix in found.items()
    }


@for_each([n for n in INVALID if n not in of_levels("json")])
def test_the_schema_refuses_what_the_index_says(name: str) -> None:
    value = manifest(VECTORS / "invalid" / name)
    assert SCHEMA.is_valid(value) == (INVALID[name]["level"] != "schema")


@for_each([n for n in INVALID if n not in of_levels("json")])
def test_the_parser_refuses_what_the_index_says(name: str) -> None:
    value, level = manifest(VECTORS / "invalid" / name), INVALID[name]["level"]
    if level in {"schema", "manifest"}:
        with pytest.raises(FormatError):
            manifest_from_json(value)
    else:
        manifest_from_json(value)


def test_the_reference_reader_is_a_program() -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", SPEC / "reader.py", VECTORS / name]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good, bad = run("valid/dense-int8"), run("invalid/hash-mismatch")
    assert (good.returncode, bad.returncode) == (0, 1)
    digest, *lines = good.stdout.splitlines()
    names = [line.partition(":")[0] for line in lines]
    assert digest == expected("dense-int8")["digest"]
    assert names == list(expected("dense-int8")["factors"])
    assert "hash of a file" in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize("file", ["kfac.json", "factors.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, file: str) -> None:
    shutil.copytree(VECTORS / "valid/dense-float32", tmp_path / "a")
    (tmp_path / "a" / file).unlink()
    os.mkfifo(tmp_path / "a" / file)
    with pytest.raises(FormatError):
        load_artifact(tmp_path / "a")
    with pytest.raises(reader.Refused):
        reader.read(tmp_path / "a")


def test_the_reader_leaves_out_eigenvalues_of_too_many_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = VECTORS / "invalid/int8-indefinite"
    assert reader.main([str(vector)]) == 1
    monkeypatch.setattr(reader, "MOST_ROWS", 3)
    assert reader.main([str(vector)]) == 0
    assert "G: 4 x 4" in (said := capsys.readouterr().out)
    assert "eigenvalues not computed" in said


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)


def test_every_vector_is_in_the_index_and_every_entry_is_there() -> None:
    for kind in ("valid", "invalid"):
        found = {path.name for path in (VECTORS / kind).iterdir()}
        assert found == set(INDEX[kind])


def test_the_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    command = [sys.executable, "-B", VECTORS / "make.py", tmp_path]
    subprocess.run(command, check=True)
    for made in (path for path in tmp_path.rglob("*") if path.is_file()):
        kept = VECTORS / made.relative_to(tmp_path)
        if made.name != "expected.json":  # other platforms may round a last digit
            assert made.read_bytes() == kept.read_bytes(), kept


@pytest.mark.parametrize("parts", [(1, 2), (1, 3)])
def test_merging_the_parts_gives_the_merged_vector(parts: tuple[int, int]) -> None:
    found = merge([load_artifact(VECTORS / "valid" / f"part-{i}") for i in parts])
    wanted = load_artifact(VECTORS / "valid" / f"merged-{parts[0]}-{parts[1]}")
    assert found.provenance.sources == wanted.provenance.sources
    for name, factor in wanted.factors.items():
        assert torch.equal(found.factors[name].to_dense(), factor.to_dense())
    for name, error in wanted.provenance.merge_errors.items():
        merged = found.provenance.merge_errors[name]
        assert merged.relative == pytest.approx(error.relative, rel=1e-9)
        assert merged.bound == pytest.approx(error.bound, rel=1e-9)


def test_merging_equal_artifacts_multiplies_kronecker_blocks_only() -> None:
    one, four = expected("part-1"), expected("merged-equal")
    assert four["blocks"]["layer"] == pytest.approx(4 * one["blocks"]["layer"])
    assert four["blocks"]["norm"] == pytest.approx(one["blocks"]["norm"])
    assert four["drift"] == pytest.approx(one["drift"])


@pytest.mark.parametrize(
    "file",
    [
        *VECTORS.glob("*.py"),
        *SPEC.glob("*.py"),
    ],
    ids=lambda f: f.name,
)
def test_neither_vectors_nor_reader_use_our_code_or_each_other(file: Path) -> None:
    own = {path.stem for path in file.parent.glob("*.py")}
    tree = ast.walk(ast.parse(file.read_text()))
    imports = [n for n in tree if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name for n in imports if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in imports if isinstance(n, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names}
    assert roots <= {*sys.stdlib_module_names, "numpy", *own}


def test_the_specification_refers_to_pages_and_sections_that_exist() -> None:
    for page in SPEC.rglob("*.md"):
        text = page.read_text()
        for link in re.findall(
            r"`((?:\.\./)?(?:structures|storage|schema|vectors)/[\w./-]*)`", text
        ):
            assert (page.parent / link).exists(), (page, link)
    text = (SPEC / "format.md").read_text()
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE))
    assert set(re.findall(r"[Ss]ections? (\d+(?:\.\d+)?)", text)) <= sections


def test_every_structure_and_storage_of_the_schema_has_its_page_and_vectors() -> None:
    used = {
        kind: {
            factor[kind]["name"]
            for name in VALID
            for factor in manifest(VECTORS / "valid" / name)["factors"].values()
        }
        for kind in ("structure", "storage")
    }
    for kind, folder in (("structure", "structures"), ("storage", "storage")):
        choices = SCHEMA.schema["$defs"][kind]["oneOf"]
        known = [choice["properties"]["name"] for choice in choices]
        names = [n for k in known for n in k.get("enum", [k.get("const")])]
        pages = [page.stem for page in (SPEC / folder).iterdir()]
        assert sorted(pages) == sorted(names) == sorted(used[kind])


def test_the_vectors_stay_small() -> None:
    files = [f for f in VECTORS.rglob("*") if f.is_file() and f.suffix != ".pyc"]
    assert sum(file.stat().st_size for file in files) < 1_500_000
