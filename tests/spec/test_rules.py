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
OTHERS = re.compile(
    r"\b(?:writer|merger|joiner|compressor|program|penalty|decoder|check)\b[^.]*? MUST"
)
"""Who has to obey a rule that no broken artifact can show."""


def cited(index: str, *kinds: str) -> set[str]:
    """The rules that the cases of an index break."""
    found = json.loads((SPEC / "vectors" / index).read_text())
    entries = [entry for kind in kinds for entry in found[kind].values()]
    return {number for entry in entries for number in entry.get("cites", ())}


CITED = cited("index.json", "invalid")
OF_TASK_VECTORS = cited("task_vectors/index.json", "invalid", "sums", "applications")
OF_MERGING = {
    number
    for case in json.loads((SPEC / "vectors/merge/index.json").read_text()).values()
    for number in case.get("cites", ())
}


def rules_of(page: Path) -> dict[str, str]:
    """The rules of a page by their numbers."""
    return dict(RULE.findall(page.read_text()))


RULES = {n: text for page in NORMATIVE for n, text in rules_of(page).items()}

WITHOUT_VECTOR = {
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
    "diagonal.2": "any other field is one that a factor has not: R8.9",
}
"""Rules for readers that no invalid vector breaks, and why."""


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
    assert RULES.keys() >= CITED | OF_TASK_VECTORS | OF_MERGING


def test_every_rule_for_readers_has_a_vector_or_a_reason() -> None:
    """Rules of section 11, of task vectors and of checkpoints are not of a reader."""
    of_readers = {
        number
        for number, text in RULES.items()
        if "MUST" in text
        and not OTHERS.search(text)
        and not number.startswith(("R11.", "T", "P", "M"))
    }
    assert of_readers - CITED == WITHOUT_VECTOR.keys()


WITHOUT_TASK_VECTOR = {
    "T2.1": "what a reader must ignore: the valid vector `extensions`",
    "T2.2": "how a writer writes",
}
"""Rules of task vectors that no vector breaks, and why."""


def test_every_rule_of_task_vectors_has_a_vector_or_a_reason() -> None:
    rules = rules_of(SPEC / "task_vector.md").items()
    needed = {number for number, text in rules if "MUST" in text}
    assert needed - OF_TASK_VECTORS == WITHOUT_TASK_VECTOR.keys()


def test_every_refusal_of_section_11_but_one_has_a_case() -> None:
    """What totals of two weightings do is not among the cases yet."""
    rules = rules_of(SPEC / "format.md").items()
    needed = {
        number
        for number, text in rules
        if number.startswith("R11.") and "MUST refuse" in text.replace("\n ", "")
    }
    assert needed - OF_MERGING == {"R11.22"}
