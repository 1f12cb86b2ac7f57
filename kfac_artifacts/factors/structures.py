"""The structures that there are, by the name that the manifest gives them."""

from kfac_artifacts.factors.base import Factor
from kfac_artifacts.factors.block_diagonal import BlockDiagonal
from kfac_artifacts.factors.dense import Dense
from kfac_artifacts.factors.diagonal import Diagonal
from kfac_artifacts.factors.low_rank import LowRank
from kfac_artifacts.factors.pruned import Pruned

FACTORS: dict[str, type[Factor]] = {
    "dense": Dense,
    "block_diagonal": BlockDiagonal,
    "low_rank": LowRank,
    "pruned": Pruned,
    "diagonal": Diagonal,
}
