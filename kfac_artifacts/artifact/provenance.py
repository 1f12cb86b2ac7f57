"""Provenance: which model, output map and data an artifact comes from."""

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kfac_artifacts.canonical import canonical_json
from kfac_artifacts.errors import listed
from kfac_artifacts.json_object import JsonObject

Json: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class ParameterInfo:
    """Shape of a parameter, and the sha256 of its values.

    The hash is over the values as little-endian float32, rows first, so that a model
    saved in float32 and in bfloat16 differ only where their values do.
    """

    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class DerivedFile:
    """A file that holds the weights of a model in another form, such as quantised.

    Attributes:
        name: Name of the file; never a path.
        sha256: Of its bytes.
        how: What was done to the weights, such as ``GGUF Q4_K_M``.
    """

    name: str
    sha256: str
    how: str | None = None


@dataclass(frozen=True)
class BaseModel:
    """The pretrained model an artifact or a task vector belongs to.

    Attributes:
        id: What people call it.
        revision: Its commit, if known.
        parameters: Its parameters by name.
        derived: Files of the same weights in another form. They help people find
            curvature, and tell no two models apart.
    """

    id: str
    revision: str | None
    parameters: Mapping[str, ParameterInfo]
    derived: tuple[DerivedFile, ...] = ()

    def __repr__(self) -> str:
        count = len(self.parameters)
        return f"BaseModel({self.id!r:.60}, {self.revision!r:.20}, {count} parameters)"

    @property
    def sha256(self) -> str:
        """One hash over all: of the lines ``<name> <sha256>``, sorted by name."""
        lines = (f"{n} {p.sha256}\n" for n, p in sorted(self.parameters.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter."""
        return {name: info.shape for name, info in self.parameters.items()}

    def differences(self, other: "BaseModel") -> list[str]:
        """Say in words what of this model is not in another, or differs there."""
        found = []
        missing = [n for n in self.parameters if n not in other.parameters]
        if missing:
            found.append(f"{other.id} has no parameter {listed(missing)}")
        changed = []
        for name in [n for n in self.parameters if n in other.parameters]:
            ours, theirs = self.parameters[name], other.parameters[name]
            if ours.shape != theirs.shape:
                found.append(
                    f"{name} has shape {list(theirs.shape)} in {other.id}, "
                    f"not {list(ours.shape)} as in {self.id}"
                )
            elif ours.sha256 != theirs.sha256:
                changed.append(name)
        if changed:
            found.append(f"{other.id} has other values in {listed(changed)}")
        return found

    def restrict(self, names: Set[str]) -> "BaseModel":
        """The same model, seen through some of its parameters."""
        kept = {n: p for n, p in self.parameters.items() if n in names}
        return BaseModel(self.id, self.revision, kept, self.derived)

    def known_as(self, others: Iterable["BaseModel"]) -> "BaseModel":
        """The same model, with the files that are derived from others as well."""
        files = [file for base in (self, *others) for file in base.derived]
        once = {file.sha256: file for file in reversed(files)}
        kept = tuple(once[digest] for digest in dict.fromkeys(f.sha256 for f in files))
        return BaseModel(self.id, self.revision, self.parameters, kept)


@dataclass(frozen=True)
class NamedConfig:
    """A name with its configuration: an output map, a preprocessing.

    Two are equal if they are the same JSON (``canonical_json``): ``true`` is not 1.
    """

    name: str
    configuration: Mapping[str, Json] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamedConfig):
            return NotImplemented
        return self._canonical() == other._canonical()

    def __hash__(self) -> int:
        return hash(self._canonical())

    def _canonical(self) -> bytes:
        return canonical_json([self.name, dict(self.configuration)])

    @classmethod
    def from_json(cls, value: object, where: str) -> "NamedConfig":
        """Read a name with its configuration."""
        fields = JsonObject(value, where)
        found = cls(fields.name("name"), fields.take("configuration", dict))
        fields.finish()
        return found

    def __str__(self) -> str:
        return f"{self.name} {dict(self.configuration) or ''}".rstrip()


@dataclass(frozen=True)
class DataInfo:
    """Which data were used, without showing them.

    Attributes:
        id: Hub id, or the name of a local file or folder, with the folder that it is in
            if everybody calls files so; never a whole path.
        config: Configuration of the dataset, if it has several.
        split: Split, if there is one.
        fingerprint: sha256 of the examples that were used.
        examples: How many examples were used.
        size: How many examples the dataset has: the weight n_t in merging.
        preprocessing: How an example became a batch.
    """

    id: str
    config: str | None
    split: str | None
    fingerprint: str
    examples: int
    size: int
    preprocessing: NamedConfig


@dataclass(frozen=True)
class Cotangents:
    """Which vectors were pulled back through the network.

    Attributes:
        name: ``orthogonal`` (rows of √C times random orthogonal matrices), ``mc``
            (independent Gaussian) or ``exact`` (the C unit vectors).
        draws: Vectors per example, divided out; None for ``exact``.
        seed: Seed of the draws and of the choice of examples.
    """

    name: str
    draws: int | None
    seed: int


@dataclass(frozen=True)
class Privacy:
    """What noise guarantees for each example of a task: (ε, δ)-differential privacy.

    It is towards replacing one example by any other, their number being public: no
    set of artifacts is more than e^ε times as likely with the one as with the other,
    but for a probability of δ.

    Attributes:
        epsilon: ε.
        delta: δ.
        noise_multiplier: Standard deviation of the noise, in every direction of all
            factors divided by their clip norms, over ``√(2 L)``: how far replacing
            one example moves the sum of its contributions to L factors, at most.
        clip: Largest Frobenius norm of an example's contribution to each factor.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True)
class Source:
    """One task of an artifact.

    Attributes:
        data: Its data.
        cotangents: What was pulled back.
        digest: That of the artifact that it was merged from, or None.
        privacy: What noise guarantees for its examples; None if there is none.
    """

    data: DataInfo
    cotangents: Cotangents
    digest: str | None = None
    privacy: Privacy | None = None


@dataclass(frozen=True)
class MergeError:
    """What merging lost in one block, relative to the norm of the unmerged sum.

    Attributes:
        relative: The exact relative Frobenius error.
        bound: The bound of TAK, Eq. 18, relative to the same norm.
    """

    relative: float
    bound: float


@dataclass(frozen=True)
class Loss:
    """What compressing one factor lost, against the factor it was made from.

    Attributes:
        error: Relative Frobenius error; after merging an upper bound of it.
        min_eigenvalue: Smallest eigenvalue over the largest, before ``lift``.
        lift: What was added to the diagonal, so that no eigenvalue is negative.
        inverse_error: Relative Frobenius error of the damped inverse (7.6 of the
            format); None if it is not known, as after merging.
        null_overlap: How much of the space of small eigenvalues is the same, from 0
            to 1; None if it is not known, or there is no such space.
        diagonal_error: Relative error of the diagonal, in the Euclidean norm; None if
            it is not known.
    """

    error: float
    min_eigenvalue: float
    lift: float
    inverse_error: float | None = None
    null_overlap: float | None = None
    diagonal_error: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from, and so what it may be used with.

    Attributes:
        base: The pretrained model, restricted to the covered parameters.
        output_map: The function f whose Jacobian it is.
        estimator: ``kfac``, ``kfac-reduce`` or ``nearest``; its configuration says how,
            and changes nothing of what the numbers mean.
        tasks: Number T of tasks merged.
        size: Sum of the dataset sizes n_t of those tasks.
        sources: The tasks, in order.
        excluded: Parameters left out on request.
        uncovered: Parameters left out for a reason, with the reason.
        merge_errors: What the last merge lost, per block.
        losses: What compressing lost, per factor that was compressed.
        weighting: What A is weighted by, of several tasks: ``size``, the examples that
            the data have (TAK, Eq. 8), or ``positions``, those that A is the mean of.
    """

    base: BaseModel
    output_map: NamedConfig
    estimator: NamedConfig
    tasks: int
    size: int
    sources: tuple[Source, ...]
    excluded: tuple[str, ...] = ()
    uncovered: Mapping[str, str] = field(default_factory=dict)
    merge_errors: Mapping[str, MergeError] = field(default_factory=dict)
    losses: Mapping[str, Loss] = field(default_factory=dict)
    weighting: str = "size"

    def __repr__(self) -> str:
        return (
            f"Provenance({self.base!r}, {self.output_map.name:.30}, "
            f"{self.estimator.name:.30}, {self.tasks} tasks of {self.size} examples)"
        )
