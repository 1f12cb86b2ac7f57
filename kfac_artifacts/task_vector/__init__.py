"""Task vectors: what fine-tuning changed, as something that can be added and saved."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.task_vector.head import (
        ClassifierHead as ClassifierHead,
        Head as Head,
        LinearHead as LinearHead,
    )
    from kfac_artifacts.task_vector.head_files import (
        HEADS_FOLDER as HEADS_FOLDER,
        find_heads as find_heads,
        load_head as load_head,
        save_head as save_head,
    )
    from kfac_artifacts.task_vector.head_info import LayerInfo as LayerInfo
    from kfac_artifacts.task_vector.head_tensors import head_info as head_info
    from kfac_artifacts.task_vector.layered_head import (
        HeadLayer as HeadLayer,
        LayeredHead as LayeredHead,
    )
    from kfac_artifacts.task_vector.manifest import (
        MANIFEST as MANIFEST,
        TENSORS as TENSORS,
        Manifest as Manifest,
        manifest_from_json as manifest_from_json,
        read_manifest as read_manifest,
    )
    from kfac_artifacts.task_vector.merging import (
        Actmat as Actmat,
        Begin as Begin,
        IsoC as IsoC,
        IsoCts as IsoCts,
        MergeMethod as MergeMethod,
        Merging as Merging,
        Method as Method,
        RegMean as RegMean,
        Ties as Ties,
        Tsv as Tsv,
        choose_method as choose_method,
        merge_task_vectors as merge_task_vectors,
        merging_by as merging_by,
    )
    from kfac_artifacts.task_vector.vector import TaskVector as TaskVector

export_lazily(__name__)
