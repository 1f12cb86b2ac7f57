"""What layers see of examples: inputs, cotangents, and the proof that it is all.

``take_inventory`` finds the layers of a network, ``prove`` those that see the whole
gradient of their parameters, and a ``Run`` passes over a ``Sample`` while a listener is
told of every layer's inputs and cotangents. What is made of them is ``estimate``'s.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    # layers
    # proof
    from kfac_artifacts.capture.batch_axes import NOT_ONCE as NOT_ONCE

    # passes
    from kfac_artifacts.capture.cotangents import (
        HALVES as HALVES,
        Drawing as Drawing,
        check_cotangents as check_cotangents,
        choose_cotangents as choose_cotangents,
        gaussian as gaussian,
        usual_cotangents as usual_cotangents,
    )

    # records
    from kfac_artifacts.capture.gradient_gram import gram as gram, join as join
    from kfac_artifacts.capture.hooks import (
        Pass as Pass,
        requiring_gradients as requiring_gradients,
    )
    from kfac_artifacts.capture.independence import (
        require_independence as require_independence,
        require_same as require_same,
        require_same_alone as require_same_alone,
    )
    from kfac_artifacts.capture.layers.base import (
        FactorSum as FactorSum,
        GramianLayer as GramianLayer,
        KroneckerLayer as KroneckerLayer,
        Layer as Layer,
        LayerCall as LayerCall,
        LayerSums as LayerSums,
        gramian_factor as gramian_factor,
        positions_of as positions_of,
    )
    from kfac_artifacts.capture.layers.copies import Copies as Copies
    from kfac_artifacts.capture.layers.inventory import (
        Inventory as Inventory,
        constants_of as constants_of,
        take_inventory as take_inventory,
    )
    from kfac_artifacts.capture.layers.linear import LinearLayer as LinearLayer
    from kfac_artifacts.capture.layers.loose import LooseParameter as LooseParameter
    from kfac_artifacts.capture.layers.registry import (
        LayerFactory as LayerFactory,
        register_layer as register_layer,
    )
    from kfac_artifacts.capture.memory_groups import (
        RecordBatch as RecordBatch,
        StreamedRecords as StreamedRecords,
        fitting as fitting,
        next_group as next_group,
    )
    from kfac_artifacts.capture.proof import (
        OUTSIDE as OUTSIDE,
        UNREACHED as UNREACHED,
        Coverage as Coverage,
        leaders_of as leaders_of,
        prove as prove,
        prove_part as prove_part,
        reached_parameters as reached_parameters,
        require_finite as require_finite,
        require_layers as require_layers,
        true_gradients as true_gradients,
    )
    from kfac_artifacts.capture.record import (
        LinearRecord as LinearRecord,
        Record as Record,
        TableRecord as TableRecord,
    )
    from kfac_artifacts.capture.recorder import Recorder as Recorder
    from kfac_artifacts.capture.run import BatchListener as BatchListener, Run as Run
    from kfac_artifacts.capture.sample import (
        Loaded as Loaded,
        Sample as Sample,
        bounded as bounded,
        fingerprint as fingerprint,
        pair_to_prove as pair_to_prove,
        require_enough as require_enough,
        require_rows as require_rows,
    )
    from kfac_artifacts.capture.unbatched import share_unbatched as share_unbatched

export_lazily(__name__)
