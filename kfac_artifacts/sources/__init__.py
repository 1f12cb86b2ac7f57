"""Names to things: a model, its output map, a dataset, encoded for that model."""

import os
from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.sources.applying import Applied as Applied, apply as apply
    from kfac_artifacts.sources.data import (
        encode_data as encode_data,
        load_examples as load_examples,
    )
    from kfac_artifacts.sources.encode import encode_texts as encode_texts
    from kfac_artifacts.sources.examples import (
        ImageExamples as ImageExamples,
        TextExamples as TextExamples,
    )
    from kfac_artifacts.sources.heads import make_head as make_head
    from kfac_artifacts.sources.locating import check_model as check_model
    from kfac_artifacts.sources.meta_model import (
        blank_examples as blank_examples,
        load_skeleton as load_skeleton,
    )
    from kfac_artifacts.sources.model_heads import is_head_map as is_head_map
    from kfac_artifacts.sources.models import load_network as load_network
    from kfac_artifacts.sources.output_maps import (
        OUTPUT_MAPS as OUTPUT_MAPS,
        output_map as output_map,
    )
    from kfac_artifacts.sources.own_models import is_function as is_function
    from kfac_artifacts.sources.peft_adapters import load_adapter as load_adapter
    from kfac_artifacts.sources.predictions import (
        check_copied as check_copied,
        check_predictable as check_predictable,
        delimited as delimited,
        prediction_rows as prediction_rows,
        write_predictions as write_predictions,
    )
    from kfac_artifacts.sources.reading import (
        Columns as Columns,
        Data as Data,
        read_data as read_data,
    )
    from kfac_artifacts.sources.shipped_heads import shipped_heads as shipped_heads
    from kfac_artifacts.sources.streamed import load_streamed as load_streamed
    from kfac_artifacts.sources.tables import Layout as Layout

# Arrow's usual allocator asks for a gigabyte of address space at once, which limits of
# a process count; nobody but ``datasets`` needs it here, for tables that are read once.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

export_lazily(__name__)
