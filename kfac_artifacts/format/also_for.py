"""Naming files that hold the weights of curvature in another form: quantised."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kfac_artifacts.artifact import Artifact, DerivedFile
from kfac_artifacts.errors import SourceError
from kfac_artifacts.format.files import sha256_file
from kfac_artifacts.lineage import named_sources
from kfac_artifacts.names import as_name


def also_for(artifact: Artifact, files: Mapping[str | Path, str | None]) -> Artifact:
    """Say that files hold the weights that curvature is of, in another form.

    Quantised weights have other hashes than those they were made of, so nobody who has
    them alone would find the curvature. The numbers stay those of the weights as they
    were: for the quantised ones they are as good as these are close.

    Args:
        artifact: The curvature of the weights before.
        files: Every file with what was done to the weights, such as ``GGUF Q4_K_M``, or
            None if its name tells. What is in a file is not looked at.

    Returns:
        The same curvature, whose base model names the files by their sha256.

    Raises:
        SourceError: If a file cannot be read.
    """
    base = artifact.provenance.base
    derived = tuple(_derived_file(Path(path), how) for path, how in files.items())
    known = base.known_as([replace(base, derived=derived)])
    sources = named_sources(artifact)  # it stays the task that it was
    provenance = replace(artifact.provenance, base=known, sources=sources)
    return replace(artifact, provenance=provenance, digest=None)


def _derived_file(path: Path, how: str | None) -> DerivedFile:
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return DerivedFile(as_name(path.name), digest, how and as_name(how))
