"""Whether a checkpoint is the pretrained model that task vectors belong to."""

from collections.abc import Mapping, Sequence, Set

from torch import Tensor

from kfac_artifacts.artifact import BaseModel, require_base
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.network import parameter_info
from kfac_artifacts.sources.checkpoint.places import Place
from kfac_artifacts.sources.checkpoint.shards import Checkpoint
from kfac_artifacts.sources.model_heads import head_of, saved_as
from kfac_artifacts.sources.models import Location, load_module, read_config
from kfac_artifacts.task_vector import TaskVector


def check_base(
    location: Location,
    vectors: Sequence[TaskVector],
    checkpoint: Checkpoint,
    places: Mapping[str, Place],
) -> None:
    """Hold the stored numbers against the hashes of the pretrained parameters.

    Equal hashes prove as well that they were found in the right place.

    Args:
        location: The model.
        vectors: Task vectors.
        checkpoint: The model's weights.
        places: Where the parameters that move are stored.

    Raises:
        MismatchError: If they are other numbers, or nothing can be added to them.
    """
    infos = {n: parameter_info(p.read(checkpoint)) for n, p in places.items()}
    found = BaseModel(location.id, location.revision, infos)
    differing = {n for v in vectors for n in _differing(v.base, found)}
    for name, value in _as_loaded(location, differing).items():
        infos[name] = parameter_info(value)
        lost = value != places[name].read(checkpoint)
        if any((lost & (v.tensors[name].cpu() != 0)).any() for v in vectors):
            raise MismatchError(
                f"nothing can be added to {int(lost.sum())} numbers of {name}: "
                f"transformers sets them when it loads {location.id}, whatever is "
                "stored, as it does with the row of the padding token in some models"
            )
    for vector in vectors:
        require_base("the task vector", vector.base, found)
    for name, place in places.items():
        stored = [n for n in place.names if checkpoint.dtype(n) is None]
        if stored:
            raise MismatchError(
                f"nothing can be added to {name}: {stored[0]} does not hold plain real "
                "numbers"
            )


def _differing(base: BaseModel, found: BaseModel) -> set[str]:
    """Names of the parameters that have other values, of the same shape."""
    known = found.parameters
    return {
        name
        for name, info in base.parameters.items()
        if name in known and info != known[name] and info.shape == known[name].shape
    }


def _as_loaded(location: Location, names: Set[str]) -> dict[str, Tensor]:
    """The numbers of some parameters after loading, which may replace stored ones."""
    found: dict[str, Tensor] = {}
    head = head_of(saved_as(read_config(location)))
    for output_map in (None, *(head.output_maps[:1] if head is not None else ())):
        if names - found.keys():  # they may be those of the network with its head
            loaded = load_module(location, output_map).named_parameters()
            found |= {name: value.detach() for name, value in loaded if name in names}
    return found
