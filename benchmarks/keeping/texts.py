"""The texts: instructions made of labelled sets, and general texts of three kinds."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import assets
from keeping.sizes import Sizes
from kfac_artifacts.format import write_durably
from kfac_artifacts.network import Network

QUESTIONS = {
    "stackoverflow": "Which technology is this question about?",
    "banking": "What does this customer want?",
    "Yahoo": "Which topic is this question about?",
    "clinc": "What does this user want?",
}
"""What is asked of a text of a set, before the text."""
TASKS = ("stackoverflow", "banking")
"""Sets that are learned: 20 tags of questions of programmers, or 77 intents."""
OTHERS = ("Yahoo", "clinc")
"""Other tasks, which nobody trains: 10 topics, and 150 intents of which a row names the
right one and three others, as so small a model never writes one of 150."""
FOUR = "clinc"
SEEN = ("DBPedia", "Yahoo")
"""Kinds of general texts that curvature and replay are of: of the training split."""
UNSEEN = "20NG"
"""The kind of which neither has anything, and by which forgetting is measured."""
WORDS = 24
"""Of the text in an instruction."""
REPLAYED = 36
"""Words of a general text that is replayed."""
TALK = 32
"""Tokens of what the model answers to a question that it is asked."""


@dataclass(frozen=True)
class Texts:
    """Files of a directory.

    Attributes:
        root: The directory.
        task: The set that the task is made of.
    """

    root: Path
    task: str

    def instructions(self, task: str, split: str) -> Path:
        """Prompts and answers of a split."""
        return self.root / f"{task}-{split}.jsonl"

    def general(self, kind: str, split: str) -> Path:
        """General texts."""
        return self.root / f"general-{kind}-{split}.jsonl"

    @property
    def published(self) -> Path:
        """The general texts that curvature and replay are of."""
        return self.root / "general.jsonl"

    def replayed(self, count: int) -> Path:
        """Training rows of the task with general texts among them."""
        return self.root / f"replay-{count}.jsonl"

    def talks(self, network: Network, sizes: Sizes) -> Path:
        """Questions of the training split, and what the model itself answers."""
        path = self.root / "talks.jsonl"
        if not path.is_file():
            from keeping.writer import Writer

            rows = _rows("Yahoo", "train", 2 * sizes.curvature)[sizes.curvature :]
            prompts = [asked(" ".join(r["text"].split()[:WORDS])) for r in rows]
            said = Writer(network, network.module).write(prompts, TALK)
            _write(
                path,
                (
                    {"prompt": prompt, "answer": f"{answer}<|im_end|>"}
                    for prompt, answer in zip(prompts, said, strict=True)
                ),
            )
        return path

    def write(self, sizes: Sizes) -> "Texts":
        """Write what is not there yet."""
        done, tasks = self.root / "classes.json", {self.task, *OTHERS}
        if done.is_file() and tasks <= json.loads(done.read_text()).keys():
            return self
        self.root.mkdir(parents=True, exist_ok=True)
        counts = {"train": sizes.train, "dev": sizes.dev, "test": sizes.test}
        for task in tasks:
            for split, count in counts.items():
                rows = _rows(task, split, count)
                _write(self.instructions(task, split), _instructions(task, rows))
        for kind in (*SEEN, UNSEEN):
            for split in ("dev", "test"):
                rows = _rows(kind, split, sizes.texts)
                _write(self.general(kind, split), _general(rows))
        each = sizes.curvature // len(SEEN)
        published = [
            row for kind in SEEN for row in _general(_rows(kind, "train", each))
        ]
        _write(self.published, published)
        trained = [*_read(self.instructions(self.task, "train"))]
        for count in sizes.replays:
            number = len(trained) * count // sizes.batch
            again = [_replay(published[i % len(published)]) for i in range(number)]
            _write(self.replayed(count), [*trained, *again])
        classes = {task: _classes(task) for task in tasks}
        write_durably(done, json.dumps(classes).encode())
        return self

    def classes(self, task: str) -> list[str]:
        """The answers of a task."""
        return json.loads((self.root / "classes.json").read_text())[task]


def asked(instruction: str) -> str:
    """An instruction as the model was taught to read it, up to where it answers."""
    return f"<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"


def _instructions(task: str, rows: Iterable[Mapping[str, str]]) -> list[Any]:
    made = []
    for row in rows:
        text = " ".join(row["text"].split()[:WORDS])
        answer = _called(row["label"])
        prompt = asked(f"{QUESTIONS[task]} {text}")
        made.append(
            {"prompt": prompt, "answer": f"{answer}<|im_end|>", "class": answer}
        )
    return made


def four(row: Mapping[str, str], classes: Sequence[str]) -> list[str]:
    """The class of a row, and three others that are always the same, by name."""
    others = [name for name in classes if name != row["class"]]
    drawn = Random(row["prompt"]).sample(others, 3)  # noqa: S311
    return sorted([row["class"], *drawn])


def _general(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Texts without the headers of newsgroups and marks of what is cited."""
    found = []
    for row in rows:
        text = re.sub(r"^Newsgroup:.*?Subject:\s*", "", row["text"], flags=re.DOTALL)
        found.append({"text": " ".join(text.replace(">", " ").split())})
    return found


def _replay(row: Mapping[str, str]) -> dict[str, str]:
    first, *rest = row["text"].split()[:REPLAYED]
    return {"prompt": first, "answer": f" {' '.join(rest)}", "class": ""}


def _rows(task: str, split: str, count: int) -> list[Any]:
    """Rows of a split, drawn once for all; those of few words are no texts."""
    table = _table(task, split)
    whole = table[table["text"].str.split().str.len() >= 3]
    return whole.sample(min(count, len(whole)), random_state=0).to_dict("records")


def _classes(task: str) -> list[str]:
    return sorted({_called(label) for label in _table(task, "train")["label"]})


def _table(task: str, split: str) -> Any:
    import pandas as pd

    return pd.read_csv(assets.bolt(task, split), sep="\t").dropna()


def _called(label: str) -> str:
    return label.replace("_", " ")


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    write_durably(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def _read(path: Path) -> Iterable[dict[str, str]]:
    return map(json.loads, path.read_text().splitlines())
