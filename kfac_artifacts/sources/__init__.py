"""Names to things: a model, its output map, a dataset, encoded for that model."""

from kfac_artifacts.sources.applying import Applied, apply
from kfac_artifacts.sources.data import load_examples
from kfac_artifacts.sources.encode import encode_texts
from kfac_artifacts.sources.examples import ImageExamples, TextExamples
from kfac_artifacts.sources.heads import make_head
from kfac_artifacts.sources.models import load_network
from kfac_artifacts.sources.output_maps import OUTPUT_MAPS, output_map
from kfac_artifacts.sources.skeleton import blank_examples, load_skeleton

__all__ = [
    "OUTPUT_MAPS",
    "Applied",
    "ImageExamples",
    "TextExamples",
    "apply",
    "blank_examples",
    "encode_texts",
    "load_examples",
    "load_network",
    "load_skeleton",
    "make_head",
    "output_map",
]
