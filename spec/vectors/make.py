"""Make the vectors again: ``python spec/vectors/make.py [DIRECTORY]``.

It imports no reader or writer of the format, so that the vectors test both.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from border_cases import BORDER, border_cases
from breaking import Case
from compressed_breaks import compressed_manifest_cases
from compressed_cases import COMPRESSED
from compressed_files import compressed_file_cases
from constant_cases import CONSTANT, constant_cases
from diagonal_cases import DIAGONAL, diagonal_cases
from draft import Draft, canonical, compact, lined
from eigen_cases import EIGEN, eigen_cases
from file_cases import file_cases
from inputs_cases import INPUTS, inputs_cases
from manifest_cases import manifest_cases
from meaning import form, task_vector
from merge_artifacts import made
from merge_cases import Case as MergeCase, cases as merge_cases
from merge_results import compressed, joined, merged
from merge_rules import broken
from privacy_cases import HIDDEN, privacy_cases
from schema_cases import schema_cases
from task_vectors import VALID, applications, sums, task_vector_cases
from valid_cases import CASES
from value_cases import value_cases
from writing_cases import writing_cases


def main(root: Path) -> None:
    """Write every vector below ``root``, and the index of them."""
    for kind in ("valid", "invalid"):
        shutil.rmtree(root / kind, ignore_errors=True)
    valid = CASES | COMPRESSED | BORDER | EIGEN | INPUTS | DIAGONAL | CONSTANT
    valid |= HIDDEN
    for name, make in valid.items():
        draft = make()
        text = canonical(expected(draft)).encode()  # numbers in the fewest digits
        files = {"kfac.json": draft.text, "expected.json": text}
        write(root / "valid" / name, files | draft.files)
    invalid = {}
    for case in invalid_cases():
        write(root / "invalid" / case.name, case.files)
        invalid[case.name] = case.to_json()
    index = {"valid": [*valid], "invalid": invalid}
    (root / "index.json").write_bytes(lined(index, 2) + b"\n")
    write_task_vectors(root / "task_vectors")
    write_merges(root / "merge")
    write_writing(root / "writing")


def write_task_vectors(root: Path) -> None:
    """Write the vectors of task vectors, and the index of them."""
    shutil.rmtree(root, ignore_errors=True)
    for name, make in VALID.items():
        found = make()
        files = found.files | {"expected.json": compact(found.expected())}
        write(root / "valid" / name, files)
    invalid = {}
    for case in task_vector_cases():
        write(root / "invalid" / case.name, case.files)
        invalid[case.name] = case.to_json()
    index = {"valid": [*VALID], "invalid": invalid}
    index |= {"sums": sums(), "applications": applications()}
    (root / "index.json").write_bytes(lined(index, 2) + b"\n")


def write_merges(root: Path) -> None:
    """Write the cases of section 11: artifacts, and what comes of them."""
    shutil.rmtree(root, ignore_errors=True)
    drafts, index = made(), {}
    for name, draft in drafts.items():
        files = {"kfac.json": compact(draft.manifest)} | draft.files
        write(root / "artifacts" / name, files)
    for name, case in merge_cases().items():
        index[name] = case.to_json()
        added, taken = ([drafts[n] for n in each] for each in (case.of, case.exclude))
        rules = [*broken(case.operation, added, taken, case.weighting)]
        if rules != [case.breaks] * bool(case.breaks):
            raise ValueError(f"{name} breaks {rules}, not {case.breaks}")
        if not case.breaks:
            content = compact(outcome(case, added, taken))
            write(root / "expected" / name, {"expected.json": content})
    (root / "index.json").write_bytes(lined(index) + b"\n")


def write_writing(root: Path) -> None:
    """Write the cases for writers, a line for each."""
    shutil.rmtree(root, ignore_errors=True)
    write(root, {"index.json": lined(writing_cases()) + b"\n"})


def outcome(
    case: MergeCase, added: Sequence[Draft], taken: Sequence[Draft]
) -> dict[str, Any]:
    """Say what comes of a case."""
    if case.operation == "join":
        return joined(added)
    if case.operation == "compress":
        return compressed(*added)
    return merged(added, taken, case.weighting)


def invalid_cases() -> Iterator[Case]:
    """All invalid vectors."""
    yield from manifest_cases()
    yield from schema_cases()
    yield from file_cases()
    yield from value_cases()
    yield from compressed_manifest_cases()
    yield from compressed_file_cases()
    yield from border_cases()
    yield from eigen_cases()
    yield from inputs_cases()
    yield from diagonal_cases()
    yield from constant_cases()
    yield from privacy_cases()


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write one vector."""
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def expected(draft: Draft) -> dict[str, Any]:
    """Say what the artifact means: dense factors, and the drift of one task vector."""
    parameters = draft.manifest["base_model"]["parameters"]
    tau = {
        name: task_vector(info["shape"], i)
        for i, (name, info) in enumerate(parameters.items())
    }
    values = {n: form(b, tau, draft) for n, b in draft.manifest["blocks"].items()}
    tasks = draft.manifest["tasks"]
    kinds = {n: block["kind"] for n, block in draft.manifest["blocks"].items()}
    scaled = [
        value / tasks if kinds[name] in {"kronecker", "eigen"} else value
        for name, value in values.items()
    ]
    return {
        "factors": {n: f.matrix.tolist() for n, f in draft.factors.items()},
        "tau": {n: value.tolist() for n, value in tau.items()},
        "blocks": values,
        "drift": sum(scaled),
        "digest": draft.digest,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
