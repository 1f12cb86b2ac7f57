"""Names to things: a model, its output map, a dataset, encoded for that model."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.sources.applying import Applied, apply
    from kfac_artifacts.sources.data import encode_data, load_examples
    from kfac_artifacts.sources.encode import encode_texts
    from kfac_artifacts.sources.examples import ImageExamples, TextExamples
    from kfac_artifacts.sources.heads import make_head
    from kfac_artifacts.sources.locating import check_model
    from kfac_artifacts.sources.meta_model import blank_examples, load_skeleton
    from kfac_artifacts.sources.models import load_network
    from kfac_artifacts.sources.output_maps import OUTPUT_MAPS, output_map
    from kfac_artifacts.sources.reading import Columns, Data, read_data
    from kfac_artifacts.sources.tables import Layout

__all__ = [
    "OUTPUT_MAPS",
    "Applied",
    "Columns",
    "Data",
    "ImageExamples",
    "Layout",
    "TextExamples",
    "apply",
    "blank_examples",
    "check_model",
    "encode_data",
    "encode_texts",
    "load_examples",
    "load_network",
    "load_skeleton",
    "make_head",
    "output_map",
    "read_data",
]

export_lazily(
    __name__,
    {
        "OUTPUT_MAPS": "output_maps",
        "Applied": "applying",
        "Columns": "reading",
        "Data": "reading",
        "ImageExamples": "examples",
        "Layout": "tables",
        "TextExamples": "examples",
        "apply": "applying",
        "blank_examples": "meta_model",
        "check_model": "locating",
        "encode_data": "data",
        "encode_texts": "encode",
        "load_examples": "data",
        "load_network": "models",
        "load_skeleton": "meta_model",
        "make_head": "heads",
        "output_map": "output_maps",
        "read_data": "reading",
    },
)
