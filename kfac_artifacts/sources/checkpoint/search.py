"""Finding the places of parameters, whatever loading does to a checkpoint."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from kfac_artifacts.errors import MismatchError
from kfac_artifacts.sources.checkpoint.places import Parts, Place, Whole
from kfac_artifacts.sources.checkpoint.probe import Probe, addresses
from kfac_artifacts.sources.checkpoint.shards import Checkpoint
from kfac_artifacts.sources.meta_model import build_module
from kfac_artifacts.sources.models import Location
from kfac_artifacts.sources.silence_libraries import quiet

MOST_INT32 = 2**31 - 2


def find_places(
    location: Location, checkpoint: Checkpoint, names: Set[str]
) -> dict[str, Place]:
    """Find where parameters are stored.

    Args:
        location: The model.
        checkpoint: Its weights.
        names: Names of parameters of the network that ``load_network`` makes of it, or
            of the class that saved it.

    Returns:
        The place of every one of them that there is.

    Raises:
        MismatchError: If a parameter is not made of stored numbers, each used once.
        SourceError: If the network cannot be built.
    """
    built = build_module(location)
    probe = Probe(checkpoint.shapes, torch.float32)
    readers = _readers(location, built, probe)
    fitting = (r for r in readers if names <= dict(r.named_parameters()).keys())
    module = next(fitting, readers[0])
    parameters = {n: p for n, p in module.named_parameters() if n in names}
    plain = {name: probe.name_of(p) for name, p in parameters.items()}
    whole = {name: stored for name, stored in plain.items() if stored is not None}
    copies = _copies(checkpoint, probe, readers, set(whole.values()))
    found: dict[str, Place] = {
        name: Whole(stored, copies[stored]) for name, stored in whole.items()
    }
    others = parameters.keys() - whole.keys()
    if others:
        unknown = checkpoint.shapes.keys() - _used(module, probe)
        found |= _parts(type(module), built.config, checkpoint, unknown, others)
    return found


def _readers(location: Location, built: PreTrainedModel, probe: Probe) -> list[Any]:
    """Load the probe as the network of f, and as the class that saved the model."""
    readers = [probe.load(type(built), built.config)]
    with quiet():
        config = AutoConfig.from_pretrained(str(location.encoder))
    name = (getattr(config, "architectures", None) or [None])[0]
    own: Any = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(own, type) and issubclass(own, PreTrainedModel)
    # a class of another configuration cannot load the model, so nobody sees it as one
    if is_model and own is not type(built) and isinstance(config, own.config_class):
        readers.append(probe.load(own, config))
    return readers


def _used(module: nn.Module, probe: Probe) -> set[str]:
    """Stored tensors that are, as they are, a parameter or a buffer of a module."""
    values = [*module.parameters(), *module.buffers()]
    return {name for v in values if (name := probe.name_of(v)) is not None}


def _copies(
    checkpoint: Checkpoint,
    probe: Probe,
    readers: Sequence[nn.Module],
    names: Iterable[str],
) -> dict[str, tuple[str, ...]]:
    """Find the stored tensors that are tied to some others, which must stay equal.

    Of tensors that a class ties and that are equal, one becomes the parameter and the
    others are not used; those that are not equal become parameters of their own.

    Returns:
        The others by name of each.
    """
    found: dict[str, set[str]] = {name: set() for name in names}
    for reader in readers:
        tied = _tied(reader, probe)
        family = tied | (checkpoint.shapes.keys() - _used(reader, probe))
        for name in found.keys() & family:
            equal = {o for o in family - {name} if _equal(checkpoint, name, o)}
            if tied & {name, *equal}:
                found[name] |= equal
    return {name: tuple(sorted(others)) for name, others in found.items()}


def _tied(module: nn.Module, probe: Probe) -> set[str]:
    """Stored tensors that are parameters of several names."""
    named = module.named_parameters(remove_duplicate=False)
    counts = Counter(probe.name_of(parameter) for _, parameter in named)
    return {name for name, count in counts.items() if name is not None and count > 1}


def _equal(checkpoint: Checkpoint, a: str, b: str) -> bool:
    same = checkpoint.shapes[a] == checkpoint.shapes[b]
    return same and torch.equal(checkpoint.read(a), checkpoint.read(b))


def _parts(
    kind: type[Any],
    config: Any,
    checkpoint: Checkpoint,
    unknown: Set[str],
    names: Iterable[str],
) -> dict[str, Place]:
    """Find the places of parameters that loading makes of parts of stored tensors."""
    shapes = checkpoint.shapes
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    probe = Probe(shapes, torch.float32 if total < MOST_INT32 else torch.float64)
    probe.write_addresses(unknown)
    loaded = dict(probe.load(kind, config).named_parameters())
    parameters = {name: loaded[name].detach() for name in names}
    _check_addresses(parameters, total)
    return {name: Parts(value, probe) for name, value in parameters.items()}


def _check_addresses(parameters: Mapping[str, Tensor], total: int) -> None:
    """Refuse numbers that are not stored ones, or that two numbers are made of."""
    taken = torch.zeros(total, dtype=torch.bool)
    for name, parameter in parameters.items():
        found = addresses(parameter)
        known = bool(((found >= 0) & (found < total)).all())
        if not known or len(found.unique()) < len(found) or taken[found].any():
            raise MismatchError(
                f"nothing can be added to {name}: loading does more with its stored "
                "numbers than to move each to one place"
            )
        taken[found] = True
