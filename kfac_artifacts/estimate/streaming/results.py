"""What was estimated of every part: in memory, or on disk as soon as it is there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Factors, HeldFactors, Json, NamedConfig
from kfac_artifacts.estimate.checkpointing import AFRESH, STREAMED
from kfac_artifacts.estimate.estimators.base import Estimate
from kfac_artifacts.estimate.streaming.states import HeldStates, States, StoredStates
from kfac_artifacts.factors import FACTORS, Factor
from kfac_artifacts.format import Checkpoint, State, open_tensors


class Results:
    """Blocks and factors of the parts that are done, and states between parts.

    Args:
        directory: Where the checkpoint is; None to keep all in memory.
        settings: What must be the same to go on from it.
    """

    def __init__(self, directory: Path | None, settings: Mapping[str, Json]) -> None:
        self._directory = None if directory is None else directory / STREAMED
        self._settings = settings
        self._details: dict[int, Mapping[str, Any]] = {}
        self._held: dict[str, Factor] = {}
        self._states: dict[str, States] = {}

    def states(self, name: str) -> States:
        """States of a name, with what is there of them."""
        if name not in self._states:
            self._states[name] = self._open(name)
        return self._states[name]

    def _open(self, name: str) -> States:
        if self._directory is None:
            return HeldStates()
        return StoredStates(self._directory / f"{name}.states", self._settings)

    def has(self, number: int) -> bool:
        """Whether a part is done."""
        if number not in self._details and self._directory is not None:
            state = self._checkpoint(number).load()  # checks the factors as well
            if state is not None:
                self._details[number] = state.details
        return number in self._details

    def save(self, number: int, found: Estimate) -> None:
        """Keep what was estimated of a part.

        Args:
            number: The part.
            found: Its blocks and factors; the latter are taken out of it.
        """
        factors = found.all_factors()
        found.start, found.factors = {}, {}
        details: dict[str, Json] = {
            "stage": STREAMED,
            "finished": {n: list(found.blocks[n].factors) for n in found.finished},
            "structures": {name: factor.name for name, factor in factors.items()},
            "positions": {n: block.positions for n, block in found.blocks.items()},
            "sweeps": found.sweeps,
        }
        if self._directory is None:
            self._held |= {name: f.to("cpu") for name, f in factors.items()}
        else:
            tensors = _tensors(factors)
            self._checkpoint(number).save(State(1, tensors, details))
        self._details[number] = details

    def details(self, number: int) -> Mapping[str, Any]:
        """What is known of the blocks of a part that is done."""
        return self._details[number]

    def factors(self) -> Factors:
        """All factors of all parts, read when they are asked for."""
        if self._directory is None:
            return HeldFactors(self._held)
        files = {
            self._checkpoint(number).path / "step-1.safetensors": details["structures"]
            for number, details in self._details.items()
        }
        return KeptFactors(files)

    def _checkpoint(self, number: int) -> Checkpoint:
        assert self._directory is not None  # noqa: S101 - narrows
        path = self._directory / f"part-{number:04}"
        return Checkpoint(path, self._settings, AFRESH)


def _tensors(factors: Mapping[str, Factor]) -> dict[str, Tensor]:
    tensors, saved = {}, set[int]()  # files hold no memory twice
    for name, factor in factors.items():
        for field, tensor in factor.tensors().items():
            again = id(factor) in saved
            tensors[f"{name}/{field}"] = (tensor.clone() if again else tensor).cpu()
        saved.add(id(factor))
    return tensors


class KeptFactors(Factors):
    """Factors of a checkpoint, of which one at a time is in memory.

    Args:
        files: The structures of the factors in every file, by name.
    """

    def __init__(self, files: Mapping[Path, Mapping[str, str]]) -> None:
        self._places = {
            n: (file, s) for file, of in files.items() for n, s in of.items()
        }

    def __getitem__(self, name: str) -> Factor:
        """Read a factor."""
        file, structure = self._places[name]
        kind = FACTORS[structure]
        handle = open_tensors(file)
        fields = {}
        for key in handle.keys():  # noqa: SIM118 - it is no mapping
            owner, _, field = key.rpartition("/")
            if owner == name:
                fields[field] = handle.get_tensor(key).clone()
        return kind.from_fields(fields, {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @override
    def structure(self, name: str) -> NamedConfig:
        return NamedConfig(self._places[name][1], {})
