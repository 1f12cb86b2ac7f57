"""The factors that the authors of TAK publish, as their code writes and reads them.

Five files a task, ``<dataset>_task_<id>_{aaT,ggT,ffT,num_aaT,num_ggT}.pt``, hold sums
over the examples. Of a layer that sees R positions of an example both ``aaT`` and
``ggT`` are divided by R, the last projection is not; draws are added up, and not
averaged (aimagelab/mammoth, ``models/tak_utils/hooks.py`` and ``fisher_kfac.py``). So
with n examples and M draws

    A = aaT / n        B = R ggT / (n M)        G = ffT / (n M)

The encoder is OpenAI's CLIP with queries, keys and values in one Linear. In the
library transformers they are three, which have the diagonal blocks of that B.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Cotangents
from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, tensors_of
from kfac_artifacts.bridges.statistics import Known, Statistic, Statistics, held, whole
from kfac_artifacts.errors import FormatError, MismatchError, SettingsError

PARTS = ("aaT", "ggT", "ffT", "num_aaT", "num_ggT")
SUFFIX = re.compile(r"_(?:num_)?(?:aaT|ggT|ffT)\.pt$")
PROJECTION = "lin_proj"
"""What is in the name of the one linear layer that sees no sequence."""
IN_TRANSFORMERS = (
    (r"transformer\.resblocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"^ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^ln_post\.", "vision_model.post_layernorm."),
    (r"^lin_proj\.", "visual_projection."),
    (r"^cls_token_layer\.", "vision_model.embeddings."),
)
"""What the parts of names are in transformers' CLIP."""
QKV = ".attn.qkv.weight"


@final
@dataclass(frozen=True)
class Tak(Import):
    """Factors of one task; its path is that of its files up to ``_aaT.pt``.

    Attributes:
        positions: R, which the files do not tell: patches and class token of an image,
            50 for ViT-B/32, 197 for B/16, 257 for L/14.
        draws: M, ``--fisher_num_samples_expectation``; 0 is the exact expectation.
    """

    name = "tak"
    needs_output_map = False  # the normalised embedding of the image, that of CLIP here

    positions: int
    draws: int

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        if self.positions < 1 or self.draws < 0:
            raise SettingsError(
                f"positions must be at least 1 and draws 0, found {self.positions} and "
                f"{self.draws}"
            )
        stem = SUFFIX.sub("", path.name)
        files = tuple(path.with_name(f"{stem}_{part}.pt") for part in PARTS)
        aaT, ggT, ffT = (tensors_of(load_torch(f), str(f)) for f in files[:3])
        counts = [_count(load_torch(f), f) for f in files[3:]]
        if counts[0] != counts[1] or not counts[0]:
            raise MismatchError(f"{path}: aaT and ggT are of {counts} examples")
        if aaT.keys() != ggT.keys():
            raise FormatError(f"{path}: aaT and ggT are of other layers")
        n, draws = counts[0], self.draws or 1
        entries = [self._linear(name, aaT[name], ggT[name], n) for name in aaT]
        for name, values in ffT.items():
            G = held(values).times(1 / (n * draws))
            entries.append(Statistic(name, _names(name), G=G))
        name = "mc" if self.draws else "exact"
        cotangents = Cotangents(name, self.draws or None, 0)
        return Statistics(tuple(entries), files, cotangents, n, stem)

    def _linear(self, name: str, aaT: Tensor, ggT: Tensor, n: int) -> Statistic:
        R = 1 if PROJECTION in name else self.positions
        A = held(aaT).times(1 / n)
        B = held(ggT).times(R / (n * (self.draws or 1)))
        return Statistic(name, _names(name), A, B, positions=n * R)


def _count(value: object, path: Path) -> int:
    if not isinstance(value, Tensor):
        raise FormatError(f"{path} is no tensor")
    return whole(value)


def _names(name: str) -> tuple[tuple[str, ...], ...]:
    """What a layer may be called: as there, as by OpenAI, or as in transformers."""
    if name.endswith(QKV):
        block = _in_transformers(name.removesuffix("attn.qkv.weight"))
        three = tuple(f"{block}self_attn.{part}_proj.weight" for part in "qkv")
        fused = name.replace(QKV, ".attn.in_proj_weight")
        return (name,), (fused,), three
    openai = name.replace(".attn.proj.", ".attn.out_proj.")
    openai = openai.removeprefix("cls_token_layer.")
    return (name,), (openai,), (_in_transformers(name),)


def _in_transformers(name: str) -> str:
    for old, new in IN_TRANSFORMERS:
        name = re.sub(old, new, name)
    return name
