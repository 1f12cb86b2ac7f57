"""A suite of three tasks and four arms, on a tiny model."""

from pathlib import Path

import pytest

from tests.models import SavedModel

WORDS = {
    "animals": (["cat", "dog"], ["bird", "fish"]),
    "colours": (["red"], ["blue"]),
    "actions": (["runs"], ["sings"]),
}
DECLARED = """
name = "tiny & small"
model = "model"
modules = ["encoder.layer.1.*"]
seeds = [0, 1]
alphas = [0.5, 1.0, 1.5]
training = {steps = 4, batch_size = 4}

[[curvatures]]
name = "exact"
cotangents = "exact"
examples = 8
[[curvatures]]
name = "public"
reference = "animals.csv"
examples = 8
recipe = "low-rank-2+int8"

[[arms]]
name = "nothing"
rates = [1e-3, 1e-2]
merges = [
    "sum",
    {method = "ties", settings = {keep = 0.5}},
    {method = "regmean", curvature = "exact"},
]
[[arms]]
name = "TAK"
curvature = "exact"
rates = [1e-2]
weights = [0.1, 10]
merges = ["sum", "regmean"]
[[arms]]
name = "delta <b>"
regime = "delta"
regime_settings = {path = [0.8, 1.2]}
curvature = "public"
rates = [1e-2]
[[arms]]
name = "data"
penalty = "tau-jp"
rates = [1e-2]
training = {steps = 2}
"""


def rows(words: tuple[list[str], list[str]], which: int) -> list[str]:
    """Texts with one of the words, and which of the two kinds it is."""
    return [
        f"the {word} is {'good' if i % 2 else 'in a'} {place},{label}"
        for label, own in zip(("first", "second"), words, strict=True)
        for word in own
        for i, place in enumerate(("red", "cat", "runs", "dog", "in")[which:])
    ]


@pytest.fixture
def declared(tmp_path: Path, saved_model: SavedModel) -> Path:
    (tmp_path / "model").symlink_to(saved_model("bert"))
    text = DECLARED
    for name, words in WORDS.items():
        for part, which in (("", 0), ("-test", 2)):
            lines = ["text,label", *rows(words, which), ""]
            (tmp_path / f"{name}{part}.csv").write_text("\n".join(lines))
        text += f'\n[[tasks]]\nname = "{name}"\nhead = "prototypes"\n'
        text += f'train = "{name}.csv"\ntest = "{name}-test.csv"\n'
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return path
