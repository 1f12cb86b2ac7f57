"""By which artifact a task is known when it goes on into another."""

from dataclasses import replace

from kfac_artifacts.artifact import Artifact, Source


def named_sources(artifact: Artifact) -> tuple[Source, ...]:
    """The tasks of an artifact; a single one is known by the artifact itself."""
    # as it is or compressed: to be taken out of a total, and never counted twice
    sources = artifact.provenance.sources
    if len(sources) > 1 or sources[0].digest is not None:
        return sources
    return (replace(sources[0], digest=artifact.digest),)
