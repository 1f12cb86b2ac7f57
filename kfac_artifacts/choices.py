"""Everything that can be chosen by name, and where it is: the tables of this package.

A variant is a module and a line here (CONTRIBUTING.md). Nothing is imported before it
is asked for, so help texts and checks of names cost no import of torch.
"""

from kfac_artifacts.lazy import Variants

ESTIMATORS = Variants(
    "estimator",
    {
        "kfac": "estimate.estimators.kfac:Kfac",
        "kfac-reduce": "estimate.estimators.kfac:KfacReduce",
        "nearest": "estimate.estimators.nearest:Nearest",
        "ekfac": "estimate.estimators.ekfac:Ekfac",
        "inputs": "estimate.estimators.inputs:Inputs",
        "diagonal": "estimate.estimators.diagonal:DiagonalGramian",
    },
)
FORWARD_ONLY = ("inputs",)
"""Estimators that pull nothing back, and so take no cotangents."""
HIDING = ("kfac", "inputs")
"""Estimators in whose factors noise can hide each example."""
NO_INPUTS = {
    "nearest": "A is fitted, and not the covariance of the inputs, with nearest",
    "kfac-reduce": "A is of inputs that were averaged over positions, with kfac-reduce",
}
"""Why the A of an estimator is of no use to who wants the covariance of the inputs."""
COTANGENTS = ("orthogonal", "mc", "labels", "exact")
NO_COTANGENTS = "none"
"""What artifacts say of cotangents where nothing was pulled back."""
UNKNOWN_COTANGENTS = "unknown"
"""What they say where others pulled something back, and do not tell what."""
DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("float32", "bf16")
"""Number types of matrix products while training; float16 would need scaled losses."""
EMBEDDING = "embedding"
"""What to ask for instead of an output map: the usual one of a model without a head."""
HEADS = ("texts", "prototypes", "linear", "own")
MODES = ("linear", "plain")
PROTOCOLS = ("addition", "union", "negation", "disentanglement")
"""What ``kfac evaluate`` measures of task vectors."""
STORAGES = Variants(
    "storage",
    {
        "float32": "format.storage.floats:FLOAT32",
        "bfloat16": "format.storage.floats:BFLOAT16",
        "float16": "format.storage.floats:FLOAT16",
        "symmetric-float32": "format.storage.symmetric:SYMMETRIC_FLOAT32",
        "symmetric-bfloat16": "format.storage.symmetric:SYMMETRIC_BFLOAT16",
        "symmetric-float16": "format.storage.symmetric:SYMMETRIC_FLOAT16",
        "int8": "format.storage.int8:INT8",
    },
)
FORMS = Variants(
    "form",
    {
        "block": "compress.forms.blocks:Blocks",
        "low-rank": "compress.forms.leading:Leading",
        "prune": "compress.forms.prune:Prune",
        "diagonal": "compress.forms.diagonal:OnlyDiagonal",
    },
)
REGIMES = Variants(
    "regime",
    {
        "linearised": "train.regimes.linearised:Linearised",
        "ordinary": "train.regimes.ordinary:Ordinary",
        "attention": "train.regimes.ordinary:Attention",
        "lora": "train.regimes.lora:Lora",
        "talos": "train.regimes.talos:Talos",
        "delta": "train.regimes.delta:Delta",
    },
)
PENALTIES = Variants(
    "penalty",
    {
        "kfac": "train.penalties.kfac:KfacDrift",
        "kfac-per-task": "train.penalties.kfac:KfacPerTask",
        "orthoreg": "train.penalties.orthoreg:OrthoReg",
        "tau-jp": "train.penalties.tau_jp:TauJp",
    },
)
REGIME_SETTINGS = {
    "lora": ("rank", "alpha"),
    "talos": ("share",),
    "delta": ("path", "draw"),
}
"""What may be chosen about a regime; nothing about the others."""
PENALTY_NEEDS = {
    "kfac": "curvatures",
    "kfac-per-task": "curvatures",
    "tau-jp": "examples",
}
"""What penalties are made of that is known of other tasks; the others of nothing."""
FACTOR_PLACES = ("auto", "device", "host")
"""Where the factors of a penalty are held; those in the host's memory are copied."""
OPTIMIZERS = Variants(
    "optimizer",
    {"adamw": "train.optimizers:adamw", "adamw8bit": "train.optimizers:adamw8bit"},
)
MERGES = Variants(
    "merge method",
    {
        "sum": "task_vector.merging.sum:Sum",
        "ties": "task_vector.merging.ties:Ties",
        "tsv": "task_vector.merging.tsv:Tsv",
        "iso-c": "task_vector.merging.iso_c:IsoC",
        "iso-cts": "task_vector.merging.iso_cts:IsoCts",
        "actmat": "task_vector.merging.actmat:Actmat",
        "regmean": "task_vector.merging.regmean:RegMean",
    },
)
IMPORTS = Variants(
    "format to import",
    {
        "tak": "bridges.imports.tak:Tak",
        "kronfluence": "bridges.imports.kronfluence:Kronfluence",
        "bergson": "bridges.imports.bergson:Bergson",
        "covariances": "bridges.imports.covariances:Covariances",
        "memit-npz": "bridges.imports.memit_npz:MemitNpz",
        "quip": "bridges.imports.quip:Quip",
        "bayesvlm": "bridges.imports.bayesvlm:BayesVlm",
        "adam": "bridges.imports.adam:Adam",
    },
)
EXPORTS = Variants(
    "format to export",
    {
        "memit-npz": "bridges.exports.memit_npz:MemitNpz",
        "imatrix.gguf": "bridges.exports.imatrix:Imatrix",
        "quip": "bridges.exports.quip:Quip",
        "corda": "bridges.exports.corda:Corda",
        "kronfluence": "bridges.exports.kronfluence:Kronfluence",
    },
)
TASK_WEIGHTS = ("equal", "positions")
"""What regmean may weigh the inputs of tasks by."""

WEIGHTINGS = ("size", "positions")
"""What merging may weigh the inputs of tasks by; see ``Provenance.weighting``."""

KEPT_BYTES = 4 * 10**9
"""Bytes of activations that may be kept at once, unless told otherwise."""
