"""The importance matrix of llama.cpp: ``Σ x²`` of every input, in a GGUF file.

For every weight ``<tensor>.in_sum2`` is the sum of squares over the positions, and
``<tensor>.counts`` their number, for each expert by itself (llama.cpp,
``tools/imatrix``). ``llama-quantize --imatrix`` takes it, and so does
``llama-imatrix --in-file``:

    in_sum2 = P diag(A)        counts = P

Names are those of GGUF, by the table of the package ``gguf``, an extra.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges.exporting import Export
from kfac_artifacts.bridges.own_inputs import OwnInputs, inputs_of
from kfac_artifacts.errors import SettingsError, listed

PREFIXES = ("", "model.", "transformer.", "bert.", "encoder.")
"""What may be missing before names here that the table has."""
NO_NAME = "GGUF has no name for it"


@final
@dataclass(frozen=True)
class Imatrix(Export):
    """One file.

    Attributes:
        arch: What GGUF calls the architecture, such as ``llama`` or ``qwen3``.
    """

    name = "imatrix.gguf"
    use = "diagonal"
    is_file = True

    arch: str | None = None

    @override
    def write(self, artifact: Artifact, place: Path) -> Mapping[str, str]:
        gguf = _gguf()
        found, left = inputs_of(artifact, self.modules)
        names = self._names(gguf, artifact)
        stacks: dict[str, list[OwnInputs]] = {}
        for own in found:
            name = names(own.block.weight)
            if name is None:
                left[own.name] = NO_NAME
            else:
                stacks.setdefault(name, []).append(own)
        if not stacks:
            raise SettingsError(
                f"{self.arch} has none of "
                f"{listed([own.name for own in found], most=3)}; is it of another "
                "architecture (--arch)?"
            )
        _write(gguf, artifact, stacks, place)
        return left

    def _names(self, gguf: Any, artifact: Artifact) -> Any:
        """From the name of a weight to that in GGUF, or None."""
        archs = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.arch not in archs:
            close = [name for name in archs if (self.arch or "")[:3] in name]
            raise SettingsError(
                f"GGUF has no architecture {self.arch!r} (--arch); there are "
                f"{listed(close or list(archs), most=8)}"
            )
        numbers = re.findall(r"\.(\d+)\.", ".".join(f".{n}." for n in artifact.blocks))
        blocks = 1 + max(map(int, numbers), default=0)
        table = gguf.get_tensor_name_map(archs[self.arch], blocks)

        def name(weight: str) -> str | None:
            for prefix in dict.fromkeys((self.prefix, *PREFIXES)):
                found: str | None = table.get_name(prefix + weight, (".weight",))
                if found is not None:  # stacks of experts have no .weight here
                    return f"{found.removesuffix('.weight')}.weight"
            return None

        return name


def _write(
    gguf: Any, artifact: Artifact, stacks: Mapping[str, list[OwnInputs]], place: Path
) -> None:
    sources = artifact.provenance.sources
    examples = sum(source.data.examples for source in sources)
    positions = max(own[0].positions for own in stacks.values())
    writer = gguf.GGUFWriter(place, "imatrix")
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array(gguf.Keys.IMatrix.DATASETS, [each.data.id for each in sources])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, examples)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, max(1, positions // examples))
    for name, own in sorted(stacks.items()):
        parts = sorted(own, key=lambda each: each.block.part or 0)
        sums = [(part.squares * part.positions).float().numpy() for part in parts]
        counts = np.array([[part.positions] for part in parts], dtype=np.float32)
        several = parts[0].block.part is not None
        writer.add_tensor(f"{name}.in_sum2", np.stack(sums) if several else sums[0])
        writer.add_tensor(f"{name}.counts", counts if several else counts[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf() -> Any:
    try:
        import gguf  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            "this needs gguf, which is not installed; run: pip install "
            "'kfac-artifacts[gguf]'"
        ) from error
    return gguf
