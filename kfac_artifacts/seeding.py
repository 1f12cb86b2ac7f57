"""Random numbers that are the same in every run, process and version of Python."""

import hashlib

import torch


def seeded(seed: int | str) -> torch.Generator:
    """Make a generator on the CPU.

    Args:
        seed: A number, or words of which the first 56 bits of the SHA-256 are taken.

    Returns:
        A generator that only the seed decides.
    """
    if isinstance(seed, str):
        digest = hashlib.sha256(seed.encode()).digest()
        seed = int.from_bytes(digest[:7], "little")
    return torch.Generator().manual_seed(seed)
