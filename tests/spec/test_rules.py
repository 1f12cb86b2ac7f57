"""The rules of the pages: their numbers, and which of them a vector breaks."""

import json
import re
from collections import Counter
from pathlib import Path

from tests.each import for_each

SPEC = Path(__file__).parents[2] / "spec"
NORMATIVE = [
    SPEC / "format.md",
    SPEC / "task_vector.md",
    SPEC / "parameters.md",
    SPEC / "output_maps.md",
    *sorted((SPEC / "blocks").iterdir()),
    *sorted((SPEC / "storage").iterdir()),
    *sorted((SPEC / "structures").iterdir()),
]
NAMES = {SPEC / "blocks/diagonal.md": "diagonal_block"}
"""What rules begin with where a structure has the name of a block."""
LETTERS = {"format": "R", "task_vector": "T", "parameters": "P", "output_maps": "M"}
WIDTH = 130
RULE = re.compile(r"^- \*\*([\w.]+)\*\* (.*(?:\n(?:  .*|(?=\n  ).*))*)", re.MULTILINE)
"""A rule: a line of a list with its number, and the indented lines after it."""
HEADING = re.compile(r"^#+ (\d+(?:\.\d+)?)?.*", re.MULTILINE)
KEY_WORD = re.compile(r"\b(?:MUST|SHOULD|MAY)\b")


def cited(index: str, *kinds: str) -> set[str]:
    """The rules that the cases of an index break."""
    found = json.loads((SPEC / "vectors" / index).read_text())
    entries = [entry for kind in kinds for entry in found[kind].values()]
    return {number for entry in entries for number in entry.get("cites", ())}


CITED = cited("index.json", "invalid")
OF_TASK_VECTORS = cited("task_vectors/index.json", "invalid", "sums", "applications")


def broken_or_shown(index: str) -> set[str]:
    """The rules that the cases of an index are there for."""
    cases = json.loads((SPEC / "vectors" / index).read_text()).values()
    told = [case.get(key, ()) for case in cases for key in ("cites", "shows")]
    return {number for numbers in told for number in numbers}


OF_MERGING = broken_or_shown("merge/index.json")
OF_WRITING = broken_or_shown("writing/index.json")
WITH_VECTOR = CITED | OF_TASK_VECTORS | OF_MERGING | OF_WRITING


def rules_of(page: Path) -> dict[str, str]:
    """The rules of a page by their numbers."""
    return dict(RULE.findall(page.read_text()))


RULES = {n: text for page in NORMATIVE for n, text in rules_of(page).items()}

WITHOUT_VECTOR = {
    "R4.1.1": "nobody can see whether something was added to a factor",
    "R4.6.4": "of a change, not of an artifact",
    "R5.3": "how a writer writes",
    "R6.11": "it takes megabytes to show",
    "R7.2.2": "what must not be taken for a proof",
    "R7.3.4": "of a computation: `test_private.py` holds the writer",
    "R7.3.5": "of a computation: `test_private.py` holds the writer",
    "R7.3.6": "`test_private.py` holds the merger",
    "R7.6.4": "a measure, which the writer's own computation tells",
    "R7.6.5": "a measure, which may be dropped or computed anew",
    "R9.4": "it is cited as what it is for, R9.3: the vector `asymmetric-huge`",
    "R11.9": "a merger chooses among three; every one of them is right",
    "R11.18": "R11.15 for other programs",
    "R12.6": "what a member means to others, nobody can see",
    "R12.7": "a reader must refuse most of them: R12.5",
    "R12.1.1": "a reader must refuse them: R12.2",
    "R12.1.2": "a reader must refuse them: R12.2",
    "R13.8": "how a program fetches",
    "eigen.5": "a basis that was turned is another basis, and a right one",
    "P1.1": "of a network, not of an artifact: `test_parameters.py`",
    "P1.2": "of a network, not of an artifact: `test_parameters.py`",
    "P3.1": "of a checkpoint, not of an artifact: `test_parameters.py`",
    "P3.2": "of a checkpoint, not of an artifact: `test_parameters.py`",
    "P3.3": "of a checkpoint, not of an artifact: `test_parameters.py`",
    "M1.1": "what a name means, nobody can see",
    "M1.2": "readers take any configuration: `test_output_maps.py` holds the writer",
    "M1.2.1": "what is predicted is in no artifact: `tests/language` holds the writer",
    "T2.1": "what a reader must ignore: the valid vector `extensions`",
    "T2.2": "how a writer writes",
    "R4.6.1": "what a reader computes: `drift` in expected.json",
    "R4.6.2": "of a change, not of an artifact",
    "R4.7.1": "what a reader must not rely on",
    "R4.7.4": "what a verifier must let pass: valid vectors `leaning-*`",
    "R4.7.6": "what a verifier may leave out",
    "R5.1": "what a reader must ignore: expected.json beside each valid vector",
    "R5.5": "no vector can hold a pipe",
    "R6.10": "what a reader must let pass: the valid vector `minus-zero`",
    "R6.3": "it takes 64 MiB to show",
    "R7.2": "an order of checks",
    "R8.10": "what a reader must not rely on",
    "R9.1": "what a reader computes: `factors` in expected.json",
    "R9.5": "when a reader refuses: the level `values`",
    "R10.3": "which checks are left: vectors are refused without a look at hashes",
    "R12.4": "what a reader must ignore: the valid vector `extensions`",
    "R13.1": "what a reader must not do",
    "R13.3": "an order of checks",
    "R13.6": "section 6 says what is broken",
    "R13.7": "what a reader must not do",
    "R14.1": "all vectors together",
    "R14.5": "rules of another page",
    "R14.2": "all vectors together",
    "dense.2": "R9.3 of all structures, and cited so",
    "dense.3": "what a reader must not do: expected.json has the entries as stored",
}
"""Requirements that no vector and no case breaks or shows, and why."""


@for_each(NORMATIVE)
def test_every_rule_has_a_number_of_its_section_and_its_own(page: Path) -> None:
    text, letter = page.read_text(), LETTERS.get(page.stem)
    numbers = [match[1] for match in RULE.finditer(text)]
    assert max(Counter(numbers).values(), default=1) == 1
    section = ""
    for match in sorted(
        [*RULE.finditer(text), *HEADING.finditer(text)], key=re.Match.start
    ):
        if match[0].startswith("#"):
            section = match[1] or section
        else:
            own = NAMES.get(page, page.stem)
            prefix = own if letter is None else f"{letter}{section}"
            assert re.fullmatch(rf"{re.escape(prefix)}\.\d+", match[1])


@for_each(NORMATIVE)
def test_every_requirement_stands_in_a_rule(page: Path) -> None:
    """The conventions, which explain the key words, aside; and what is history."""
    text = page.read_text().partition("Changelog\n")[0]
    text = re.sub(r"^(?:Status|The) .*key words(?:.|\n)*?\n\n", "", text, flags=re.M)
    text = re.sub(r"^Status: .*", "", text, flags=re.MULTILINE)
    found = [line for line in RULE.sub("", text).splitlines() if KEY_WORD.search(line)]
    assert found == []


@for_each(NORMATIVE)
def test_lines_are_no_wider_than_a_window(page: Path) -> None:
    """But for tables, which have no other way."""
    lines = page.read_text().splitlines()
    wide = [line for line in lines if len(line) > WIDTH and not line.startswith("|")]
    assert wide == []


def test_every_cited_rule_exists() -> None:
    assert RULES.keys() >= WITH_VECTOR


def test_every_requirement_has_a_vector_or_a_reason() -> None:
    needed = {number for number, text in RULES.items() if "MUST" in text}
    assert needed - WITH_VECTOR == WITHOUT_VECTOR.keys()
