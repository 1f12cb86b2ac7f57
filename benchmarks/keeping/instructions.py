"""Short instructions whose answers can be checked: facts, and what was asked for.

An answer is right if it matches, whatever its case; most want words about a thing that
the task of the benchmark never mentions, in a sentence or a list.
"""

import re

SENTENCE = r"(\w+\W+){4}"
"""Five words or so: whoever learned to answer in one has forgotten how."""
CHECKED = {
    "What is the capital of France?": r"\bparis\b",
    "What is the capital of Italy?": r"\brome\b",
    "What is the capital of Japan?": r"\btokyo\b",
    "What is 2 + 2?": r"\b(4|four)\b",
    "What is 10 minus 3?": r"\b(7|seven)\b",
    "What is the opposite of hot?": r"\bcold\b",
    "What is the opposite of up?": r"\bdown\b",
    "Which planet do we live on?": r"\bearth\b",
    "How many days does a week have?": r"\b(7|seven)\b",
    "What colour is the sky on a clear day?": r"\bblue\b",
    "What do bees make?": r"\bhoney\b",
    "Who wrote Romeo and Juliet?": r"\bshakespeare\b",
    "At what temperature does water boil, in degrees Celsius?": r"\b100\b",
    "What gas do plants take from the air?": r"\b(carbon dioxide|co2|co₂)",
    "Name the largest ocean.": r"\bpacific\b",
    "What is frozen water called?": r"\bice\b",
    "Write one sentence about a cat.": rf"(?=.*\bcats?\b){SENTENCE}",
    "Write one sentence about the sea.": rf"(?=.*\b(sea|ocean|waves?)\b){SENTENCE}",
    "Describe a tree in one sentence.": rf"(?=.*\btrees?\b){SENTENCE}",
    "Explain in one sentence why people sleep.": rf"(?=.*\b(sleep|rest)\b){SENTENCE}",
    "List three colours.": r"(?=.*\b(red|blue|green|yellow)\b)\w+\W+\w+\W+\w+",
    "List three fruits.": r"(?=.*\b(apples?|bananas?|oranges?)\b)\w+\W+\w+\W+\w+",
    "Greet a friend called Anna.": r"\banna\b",
    "Say thank you in a polite sentence.": rf"(?=.*\bthank){SENTENCE}",
}


def is_right(instruction: str, answer: str) -> bool:
    """Whether an answer is what was asked for."""
    flags = re.IGNORECASE | re.DOTALL
    return re.search(CHECKED[instruction], f"{answer} ", flags) is not None
