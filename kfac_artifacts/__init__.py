"""Publish, merge and use the curvature of a pretrained network.

The words are those of the ``kfac`` command: ``compute``, ``merge``, ``compress``,
``push``, ``pull``, ``verify``, ``train``, ``apply``, ``evaluate``, ``predict``. Every
name is imported when it is used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    # networks and examples
    from kfac_artifacts.sources import (
        encode_texts as encode_texts,
        load_examples as load_examples,
        load_network as load_network,
        load_streamed as load_streamed,
    )
    from kfac_artifacts.network import (
        Network as Network,
        OutputMap as OutputMap,
        TensorExamples as TensorExamples,
    )

    # computing curvature
    from kfac_artifacts.estimate import (
        ComputeOptions as ComputeOptions,
        Effort as Effort,
        GaussianNoise as GaussianNoise,
        Kfac as Kfac,
        KfacReduce as KfacReduce,
        Nearest as Nearest,
        Plan as Plan,
        StreamedNetwork as StreamedNetwork,
        StreamedPlan as StreamedPlan,
        choose_estimator as choose_estimator,
        compute as compute,
        compute_with_curvlinops as compute_with_curvlinops,
        plan as plan,
        plan_streamed as plan_streamed,
        recompute as recompute,
        save_together as save_together,
    )
    from kfac_artifacts.fidelity import fidelity as fidelity

    # artifacts: reading, writing, making one of several, checking, multiplying by them
    from kfac_artifacts.artifact import (
        Artifact as Artifact,
        Cotangents as Cotangents,
        NamedConfig as NamedConfig,
    )
    from kfac_artifacts.format import (
        also_for as also_for,
        load_artifact as load_artifact,
    )
    from kfac_artifacts.compress import (
        Budget as Budget,
        Recipe as Recipe,
        compression_report as compression_report,
        save_artifact as save_artifact,
    )
    from kfac_artifacts.merge import join_parts as join_parts, merge as merge
    from kfac_artifacts.verify import verify as verify
    from kfac_artifacts.operator import CurvatureOperator as CurvatureOperator

    # sharing them, and saying who made them
    from kfac_artifacts.signatures import (
        Identity as Identity,
        check_signature as check_signature,
        sign as sign,
    )
    from kfac_artifacts.hub import pull as pull, push as push

    # training
    from kfac_artifacts.linearize import linearize as linearize
    from kfac_artifacts.penalty import KfacPenalty as KfacPenalty
    from kfac_artifacts.sources import make_head as make_head
    from kfac_artifacts.task_vector import (
        ClassifierHead as ClassifierHead,
        LayeredHead as LayeredHead,
        LinearHead as LinearHead,
    )
    from kfac_artifacts.train import (
        LoraSettings as LoraSettings,
        PenaltySettings as PenaltySettings,
        TrainSettings as TrainSettings,
        TrainingTask as TrainingTask,
        choose_regime as choose_regime,
        train as train,
        train_adapter as train_adapter,
    )

    # training by other libraries: adapters of peft, trainers of transformers
    from kfac_artifacts.tuning import (
        KfacCallback as KfacCallback,
        ModelPenalty as ModelPenalty,
    )

    # task vectors: adding, applying, evaluating, predicting
    from kfac_artifacts.task_vector import (
        Actmat as Actmat,
        IsoC as IsoC,
        IsoCts as IsoCts,
        RegMean as RegMean,
        TaskVector as TaskVector,
        Ties as Ties,
        Tsv as Tsv,
        merge_task_vectors as merge_task_vectors,
    )
    from kfac_artifacts.sources import apply as apply
    from kfac_artifacts.evaluate import (
        ControlTask as ControlTask,
        EvaluationTask as EvaluationTask,
        Predictions as Predictions,
        disentanglement as disentanglement,
        evaluate as evaluate,
        localise as localise,
        negate as negate,
        predict as predict,
        with_union_head as with_union_head,
    )

    # what a variant of one's own derives from
    from kfac_artifacts.capture import (
        GramianLayer as GramianLayer,
        LinearLayer as LinearLayer,
        register_layer as register_layer,
    )
    from kfac_artifacts.estimate import Estimator as Estimator
    from kfac_artifacts.factors import Factor as Factor
    from kfac_artifacts.format import Storage as Storage
    from kfac_artifacts.task_vector import (
        MergeMethod as MergeMethod,
        Merging as Merging,
    )
    from kfac_artifacts.train import (
        Others as Others,
        Penalty as Penalty,
        Regime as Regime,
    )

    # errors
    from kfac_artifacts.errors import (
        AccessError as AccessError,
        AddressError as AddressError,
        ConnectionFailed as ConnectionFailed,
        CoverageError as CoverageError,
        FactorError as FactorError,
        FormatError as FormatError,
        KfacError as KfacError,
        MismatchError as MismatchError,
        ModelError as ModelError,
        PlaceError as PlaceError,
        RegistryError as RegistryError,
        SettingsError as SettingsError,
        SourceError as SourceError,
    )

export_lazily(__name__)
