"""What is found out about an artifact on held-out data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from kfac_artifacts.artifact import Cotangents, DataInfo, Json
from kfac_artifacts.fidelity.agreement import Agreement, agreement


@dataclass(frozen=True)
class Comparison:
    """A Gramian G and its approximation K, as matrices.

    Attributes:
        norm: Estimate of ``‖G‖_F``; its square is unbiased.
        predicted_norm: ``‖K‖_F``, exact.
        squared_error: ``‖G - K‖² / ‖G‖²`` with an unbiased numerator and denominator;
            noise can make it negative. None where G is zero on all examples.
        standard_error: Of ``squared_error``, by leaving out each example once.
        cosine: ``⟨G, K⟩ / (‖G‖ ‖K‖)``.
        best_scale: The factor of K that would make the error smallest.
    """

    norm: float
    predicted_norm: float
    squared_error: float | None
    standard_error: float | None
    cosine: float | None
    best_scale: float | None

    @property
    def error(self) -> float | None:
        """``‖G - K‖ / ‖G‖``; 0 where the noise makes its square negative."""
        if self.squared_error is None:
            return None
        return math.sqrt(max(0.0, self.squared_error))

    @property
    def uncertainty(self) -> float | None:
        """Standard error of ``error``, to first order; None at 0."""
        if not self.error or self.standard_error is None:
            return None
        return self.standard_error / (2 * self.error)

    @property
    def lost(self) -> float:
        """``‖G - K‖²``, or 0 where the noise makes it negative."""
        return max(0.0, self.squared_error or 0.0) * self.norm**2

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON."""
        return {"error": self.error, **asdict(self)}


@dataclass(frozen=True)
class Drift:
    """How far one direction τ moves f.

    Attributes:
        direction: Name of the direction.
        predicted: ``τᵀ K τ``.
        true: The mean of ``‖J(x) τ‖²`` over the held-out examples; for one module the
            mean over cotangents stands for the norm.
        standard_error: Of ``true``, over the examples.
    """

    direction: str
    predicted: float
    true: float
    standard_error: float


@dataclass(frozen=True)
class ModuleFidelity:
    """One block of the artifact.

    Attributes:
        name: Name of the block.
        kind: Kind of the block.
        comparison: Errors of the block as a matrix.
        drifts: Drifts by kind of direction; of this block's parameters alone.
    """

    name: str
    kind: str
    comparison: Comparison
    drifts: Mapping[str, Sequence[Drift]]


@dataclass(frozen=True)
class Directions:
    """All directions of one kind.

    Attributes:
        total: Drifts along whole directions, in which all blocks take part.
        modules: How well the drifts of single modules agree, all of them together.
    """

    total: Sequence[Drift]
    modules: Agreement

    @property
    def agreement(self) -> Agreement:
        """How well the drifts along whole directions agree."""
        return agreement(self.total)


@dataclass(frozen=True)
class HeldOut:
    """Which examples were looked at.

    Attributes:
        data: The examples.
        known: How many of the data's examples the artifact was computed from, which
            were left out.
        doubt: Why the examples may yet be those of the artifact, or None.
    """

    data: DataInfo
    known: int
    doubt: str | None


@dataclass(frozen=True)
class Fidelity:
    """How well an artifact predicts drift on held-out data.

    Attributes:
        digest: The artifact's digest, if it is on disk.
        estimator: How it was estimated.
        held_out: The examples.
        cotangents: What was pulled back for each.
        modules: Every block.
        total: Errors of all blocks together, as a block-diagonal matrix.
        kinds: The same of the blocks of one kind, by kind: in a network with many norms
            their Gramians, which no estimator approximates, can be most of the total.
        directions: Drifts along whole directions, by kind.
    """

    digest: str | None
    estimator: str
    held_out: HeldOut
    cotangents: Cotangents
    modules: Sequence[ModuleFidelity]
    total: Comparison
    kinds: Mapping[str, Comparison]
    directions: Mapping[str, Directions]

    def share(self, module: ModuleFidelity) -> float:
        """A module's share of the squared error of all."""
        lost = sum(m.comparison.lost for m in self.modules)
        return module.comparison.lost / lost if lost > 0 else 0.0

    def to_json(self) -> dict[str, Json]:
        """Write everything as JSON."""
        return {
            "digest": self.digest,
            "estimator": self.estimator,
            "held_out": asdict(self.held_out),
            "cotangents": asdict(self.cotangents),
            "total": self.total.to_json(),
            "kinds": {kind: c.to_json() for kind, c in self.kinds.items()},
            "directions": {
                kind: {
                    "total": asdict(found.agreement),
                    "modules": asdict(found.modules),
                    "drifts": [asdict(drift) for drift in found.total],
                }
                for kind, found in self.directions.items()
            },
            "modules": [
                {
                    "name": module.name,
                    "kind": module.kind,
                    **module.comparison.to_json(),
                    "share": self.share(module),
                    "directions": {
                        kind: {
                            **asdict(agreement(drifts)),
                            "drifts": [asdict(drift) for drift in drifts],
                        }
                        for kind, drifts in module.drifts.items()
                    },
                }
                for module in self.modules
            ],
        }
