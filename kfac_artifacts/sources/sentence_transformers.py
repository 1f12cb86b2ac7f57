"""What a directory of ``sentence-transformers`` declares: modules, lengths, prompts.

``modules.json`` lists the modules that a text goes through. The first is the encoder,
at the top of the directory or, in older layouts, in a folder such as ``0_Transformer``.
Only JSON is read here, and no code of a repository is run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kfac_artifacts.errors import SourceError

LISTING = "modules.json"
MODEL_SETTINGS = "config_sentence_transformers.json"
PACKAGE = "sentence_transformers."
ENCODER_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in (
        "bert",
        "roberta",
        "distilbert",
        "camembert",
        "albert",
        "xlm-roberta",
        "xlnet",
    )
)
TEXT_AS_USUAL = {"method": "forward", "method_output_name": "last_hidden_state"}
HARMLESS_MODEL_ARGUMENTS = frozenset(
    {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype"}
)
TOKENIZER_ARGUMENTS = frozenset(
    {"do_lower_case", "model_max_length", "padding_side", "truncation_side", "use_fast"}
)

KINDS = {
    "max_seq_length": int,
    "truncate_dim": int,
    "default_prompt_name": str,
    **dict.fromkeys(
        (
            "config_args",
            "config_kwargs",
            "modality_config",
            "model_args",
            "model_kwargs",
            "processing_kwargs",
            "processor_kwargs",
            "prompts",
            "tokenizer_args",
        ),
        dict,
    ),
}
"""What entries of the settings must be, so that a damaged file is told as such."""


@dataclass(frozen=True)
class Step:
    """One entry of ``modules.json``.

    Attributes:
        type: Full name of its class.
        folder: Where its files are, relative to the directory; may be empty.
    """

    type: str
    folder: str

    @property
    def kind(self) -> str:
        """Name of the class; with its module if ``sentence-transformers`` lacks it."""
        known = self.type.startswith(PACKAGE)
        return self.type.rpartition(".")[2] if known else self.type


@dataclass(frozen=True)
class Declaration:
    """What a directory of ``sentence-transformers`` says of its model.

    Attributes:
        directory: The directory.
        steps: Its modules in order; at least one.
        encoder_settings: Content of ``sentence_bert_config.json``.
        model_settings: Content of ``config_sentence_transformers.json``.
    """

    directory: Path
    steps: tuple[Step, ...]
    encoder_settings: Mapping[str, Any]
    model_settings: Mapping[str, Any]

    @property
    def encoder(self) -> Path:
        """Where the files of the first module are."""
        return self.directory / self.steps[0].folder

    @property
    def tokenizer_arguments(self) -> dict[str, Any]:
        """What the tokenizer is loaded with."""
        return self._arguments("tokenizer_args", "processor_kwargs")

    @property
    def max_length(self) -> int | None:
        """Tokens after which texts are cut off, if that is said."""
        own = self.tokenizer_arguments.get("model_max_length")
        return own or self.encoder_settings.get("max_seq_length")

    @property
    def lower_case(self) -> bool:
        """Whether texts are put in lower case before the tokenizer sees them."""
        return bool(self.encoder_settings.get("do_lower_case"))

    @property
    def gives_all_layers(self) -> bool:
        """Whether the hidden states of every layer are asked for."""
        arguments = self._arguments("config_args", "config_kwargs")
        return bool(arguments.get("output_hidden_states"))

    @property
    def prompts(self) -> dict[str, str]:
        """Every declared prompt that is not empty, by name."""
        found = self.model_settings.get("prompts", {})
        return {name: text for name, text in found.items() if text}

    @property
    def prompt(self) -> str:
        """What users see put before every text: the prompt declared as the default.

        Raises:
            SourceError: If it is not among the prompts.
        """
        name = self.model_settings.get("default_prompt_name")
        if name is None:
            return ""
        declared = self.model_settings.get("prompts", {})
        if name not in declared:
            raise SourceError(
                f"{MODEL_SETTINGS}: the default prompt {name!r} is not among the "
                f"prompts ({', '.join(declared) or 'none'})"
            )
        return declared[name] or ""

    @property
    def dimensions(self) -> int | None:
        """How many numbers of an embedding are kept, if not all."""
        return self.model_settings.get("truncate_dim")

    def check_encoder(self) -> None:
        """Refuse whatever would make the encoder another one than is loaded here.

        Raises:
            SourceError: Naming what is not handled.
        """
        first, settings = self.steps[0], self.encoder_settings
        kind = self.model_settings.get("model_type", "SentenceTransformer")
        modalities = settings.get("modality_config", {"text": TEXT_AS_USUAL})
        task = settings.get("transformer_task", "feature-extraction")
        output = settings.get("module_output_name", "token_embeddings")
        model = self._arguments("model_args", "model_kwargs")
        config = self._arguments("config_args", "config_kwargs")
        unknown = {
            "model argument": model.keys() - HARMLESS_MODEL_ARGUMENTS,
            "config argument": config.keys() - {"output_hidden_states"},
            "tokenizer argument": self.tokenizer_arguments.keys() - TOKENIZER_ARGUMENTS,
            "processing argument": settings.get("processing_kwargs", {}).keys(),
        }
        problems = [
            (kind != "SentenceTransformer", f"it is a {kind}"),
            (first.kind != "Transformer", f"its first module is a {first.kind}"),
            (task != "feature-extraction", f"its encoder is loaded for {task}"),
            (
                modalities.get("text") != TEXT_AS_USUAL or "message" in modalities,
                f"its encoder reads {', '.join(modalities)} in a way of its own",
            ),
            (output != "token_embeddings", f"its encoder gives {output}"),
            (
                bool(settings.get("tokenizer_name_or_path")),
                "its tokenizer is that of another model",
            ),
            *(
                (bool(v), f"it sets the {k} {min(v, default='')}")
                for k, v in unknown.items()
            ),
        ]
        self.refuse(*(text for wrong, text in problems if wrong))

    def refuse(self, *problems: str) -> None:
        """Say that what users see cannot be computed here, if there is a problem.

        Raises:
            SourceError: Naming the problems.
        """
        if problems:
            raise SourceError(
                "the embedding that sentence-transformers makes by this model's "
                f"{LISTING} is not handled: {'; '.join(problems)}. Choose another f of "
                "its encoder with --output-map (output_map=)"
            )

    def _arguments(self, old: str, new: str) -> dict[str, Any]:
        """Arguments under either of their names, without leave to run code."""
        found = self.encoder_settings.get(new, self.encoder_settings.get(old, {}))
        return {k: v for k, v in found.items() if k != "trust_remote_code"}


def read_declaration(directory: Path) -> Declaration | None:
    """Read what a directory declares.

    Args:
        directory: A directory of a model.

    Returns:
        The declaration; None if it is not one of ``sentence-transformers``.

    Raises:
        SourceError: If its files are damaged, or name what lies outside of it.
    """
    if not (directory / LISTING).is_file():
        return None
    entries = read_json(directory / LISTING, list)
    try:
        steps = [Step(str(e["type"]), str(e.get("path") or "")) for e in entries]
    except (TypeError, KeyError, AttributeError) as error:
        raise SourceError(
            f"{directory.name}: {LISTING} is no list of modules with type and path"
        ) from error
    if not steps:
        raise SourceError(f"{directory.name}: {LISTING} lists no modules")
    for step in steps:
        if Path(step.folder).is_absolute() or ".." in Path(step.folder).parts:
            raise SourceError(
                f"{directory.name}: {LISTING} names {step.folder!r}, which lies outside"
            )
    encoder = directory / steps[0].folder
    return Declaration(
        directory,
        tuple(steps),
        _settings([encoder / name for name in ENCODER_SETTINGS]),
        _settings([directory / MODEL_SETTINGS]),
    )


def _settings(files: Sequence[Path]) -> dict[str, Any]:
    """Read the first of some files that there is; without the entries that say null."""
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return {}
    found = {k: v for k, v in read_json(path, dict).items() if v is not None}
    for name, kind in KINDS.items():
        if name in found and not isinstance(found[name], kind):
            raise SourceError(
                f"{path.name}: {name} is {found[name]!r:.60}, where a {kind.__name__} "
                "is expected"
            )
    texts = found.get("prompts", {}).values()
    if not all(text is None or isinstance(text, str) for text in texts):
        raise SourceError(f"{path.name}: a prompt is no text")
    return found


def declaration_of(module: nn.Module) -> Declaration | None:
    """Read what was declared beside a loaded encoder, if anything.

    Args:
        module: A model that ``from_pretrained`` loaded from a local directory.

    Returns:
        The declaration of the directory that it came from, or of the one in which that
        is the folder of the encoder.
    """
    place = str(getattr(module, "name_or_path", ""))
    if not place or not Path(place).is_dir():
        return None
    directory = Path(place)
    for top in (directory, directory.parent):
        found = read_declaration(top)
        if found is not None and found.encoder.resolve() == directory.resolve():
            return found
    return None


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON file that holds a list or an object.

    Args:
        path: The file.
        kind: ``list`` or ``dict``.

    Returns:
        Its content.

    Raises:
        SourceError: If it holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path.parent.name}/{path.name} is no JSON: {error}"
        ) from error
    if not isinstance(content, kind):
        raise SourceError(
            f"{path.parent.name}/{path.name} holds a {type(content).__name__}, where a "
            f"{kind.__name__} is expected"
        )
    return content
