"""Task vectors made one: one file per method."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.task_vector.merging.actmat import Actmat as Actmat
    from kfac_artifacts.task_vector.merging.base import (
        Begin as Begin,
        MergeMethod as MergeMethod,
        Merging as Merging,
        Method as Method,
        choose_method as choose_method,
        merge_task_vectors as merge_task_vectors,
        merging_by as merging_by,
    )
    from kfac_artifacts.task_vector.merging.iso_c import IsoC as IsoC
    from kfac_artifacts.task_vector.merging.iso_cts import IsoCts as IsoCts
    from kfac_artifacts.task_vector.merging.regmean import RegMean as RegMean
    from kfac_artifacts.task_vector.merging.ties import Ties as Ties
    from kfac_artifacts.task_vector.merging.tsv import Tsv as Tsv

export_lazily(__name__)
