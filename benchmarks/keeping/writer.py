"""How a model answers: greedily, freely or with one of several names."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kfac_artifacts.network import Network

AT_ONCE = 32


class Writer:
    """A model that goes on with prompts, greedily.

    Args:
        network: Where it runs.
        model: The model.
    """

    def __init__(self, network: Network, model: Any) -> None:
        from transformers import AutoTokenizer

        directory = network.module.name_or_path
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model, self.device = model, network.device

    def choose(self, prompts: Sequence[str], names: Sequence[str]) -> list[str]:
        """Let it write one of several names behind every prompt."""
        end = self.tokenizer.eos_token_id
        named = [[*self.tokenizer(n)["input_ids"], end] for n in names]
        allowed = next_tokens(named)
        longest = max(map(len, named))

        def may(width: int) -> Callable[[int, torch.Tensor], list[int]]:
            return lambda _, ids: allowed.get(tuple(ids[width:].tolist()), [end])

        return self._all(prompts, longest, may)

    def prefer(self, prompt: str, names: Sequence[str]) -> str:
        """The name that is the most probable as a whole, behind a prompt."""
        asked, end = self.tokenizer(prompt)["input_ids"], self.tokenizer.eos_token_id
        named = [torch.tensor([*self.tokenizer(n)["input_ids"], end]) for n in names]
        rows = [torch.cat([torch.tensor(asked), ids]) for ids in named]
        # What pads the end is not seen by what stands before it.
        batch = torch.nn.utils.rnn.pad_sequence(rows, True).to(self.device)
        with torch.no_grad():
            logits = self.model(batch).logits[:, len(asked) - 1 : -1]
        said = logits.float().log_softmax(-1).cpu()
        scores = [
            float(one[range(len(ids)), ids].sum())
            for one, ids in zip(said, named, strict=True)
        ]
        return names[scores.index(max(scores))]

    def write(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Let it write what it wants, up to so many tokens."""
        return self._all(prompts, tokens, lambda _: None)

    def _all(
        self, prompts: Sequence[str], tokens: int, may: Callable[[int], Any]
    ) -> list[str]:
        found: list[str] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = [*prompts[start : start + AT_ONCE]]
            batch = self.tokenizer(some, padding=True, return_tensors="pt")
            width = batch["input_ids"].shape[1]
            with torch.no_grad():
                ids = self.model.generate(
                    **batch.to(self.device),
                    max_new_tokens=tokens,
                    do_sample=False,
                    prefix_allowed_tokens_fn=may(width),
                    pad_token_id=self.tokenizer.eos_token_id,
                )
            said = self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
            found += [text.strip() for text in said]
        return found


def next_tokens(sequences: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """What may come next behind every beginning of some sequences."""
    found: dict[tuple[int, ...], list[int]] = {}
    for sequence in sequences:
        for place, token in enumerate(sequence):
            following = found.setdefault(tuple(sequence[:place]), [])
            if token not in following:
                following.append(token)
    return found
